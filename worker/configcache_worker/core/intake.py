"""
What one session has handed over, and what we owe it.

Goes with its session: when that ends, everything here is dropped, and the broker hands the same messages out again. What
is done with the deliveries is decided elsewhere; here they are kept apart by what they wait for, and settled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from configcache_worker.core.coalesce import Order, Work
from configcache_worker.core.ledger import Ledger
from configcache_worker.core.ports import Delivery, Letter, Scope, Session

_KEPT_BYTES: Final = 4096
"""The bytes of a longer good delivery are not kept for the unlikely case that the database refuses it."""


@dataclass(slots=True, eq=False)
class Intake:
    """The open deliveries of one session."""

    session: Session
    ledger: Ledger = field(default_factory=Ledger)
    inbox: list[Order] = field(default_factory=list)
    """Decoded, waiting for the next batch."""
    set_aside: dict[Scope, Work] = field(default_factory=dict)
    """Failed alone, waiting for a trial of their own."""
    letters: deque[Letter] = field(default_factory=deque)
    """Can never succeed, waiting for their way to the dead letters."""
    unburied: int = 0
    """Deliveries whose letters are not confirmed, waiting or on their way."""
    held_bytes: int = 0
    """Of these."""
    _solos: int = 0
    """Deliveries in the inbox that have to run alone."""

    @property
    def has_ended(self) -> bool:
        return self.session.has_ended

    def enqueue(self, delivery: Delivery, scope: Scope) -> None:
        """Put a decoded delivery behind the others that wait for a batch."""
        if delivery.solo:
            self._solos += 1
        if delivery.size > _KEPT_BYTES:
            delivery = delivery._replace(body=b"", envelope=None, size=0)
        self.inbox.append((delivery, scope))

    def take(self, most: int) -> list[Order]:
        """Take what has arrived: up to *most*, or one that has to run alone."""
        if self._solos:
            first_solo = next((n for n, (delivery, _) in enumerate(self.inbox[:most]) if delivery.solo), most)
            if first_solo == 0:
                self._solos -= 1
            most = max(first_solo, 1)
        orders = self.inbox[:most]
        del self.inbox[:most]
        return orders

    def put_aside(self, scope: Scope, deliveries: Iterable[Delivery]) -> None:
        """Let deliveries of one command wait for its trial."""
        self.set_aside.setdefault(scope, Work(scope, [])).deliveries.extend(deliveries)

    def done(self, tags: Collection[int]) -> None:
        """Acknowledge deliveries."""
        self.ledger.done(tags)
        self.settle()

    def settle(self) -> None:
        """Tell the broker what has been reported. If the session has ended there is nobody to tell."""
        settlement = self.ledger.take()
        if settlement is not None:
            self.session.settle(settlement)
