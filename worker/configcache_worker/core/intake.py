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
"""A good delivery longer than this is not kept for the unlikely case that the database refuses it."""


@dataclass(slots=True, eq=False)
class Intake:
    """The open deliveries of one session."""

    session: Session
    ledger: Ledger = field(default_factory=Ledger)
    inbox: deque[Order] = field(default_factory=deque)
    """Decoded, waiting for the next batch."""
    set_aside: dict[Scope, Work] = field(default_factory=dict)
    """Failed alone, waiting for a trial of their own."""
    letters: deque[Letter] = field(default_factory=deque)
    """Can never succeed, waiting for their way to the dead letters."""
    unburied: int = 0
    """Deliveries whose letters are not confirmed, waiting or on their way."""
    held_bytes: int = 0
    """Of these."""
    _solos: set[int] = field(default_factory=set)
    _kept: dict[int, Delivery] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.session.has_ended

    def enqueue(self, delivery: Delivery, scope: Scope) -> None:
        """Put a decoded delivery behind the others that wait for a batch."""
        self.inbox.append(Order(delivery.tag, scope))
        if delivery.solo:
            self._solos.add(delivery.tag)
        if delivery.size <= _KEPT_BYTES:
            self._kept[delivery.tag] = delivery

    def take(self, most: int) -> list[Order]:
        """Take what has arrived: up to *most*, or one that has to run alone."""
        inbox, solos = self.inbox, self._solos
        if not solos:
            return [inbox.popleft() for _ in range(min(len(inbox), most))]
        orders: list[Order] = []
        while inbox and len(orders) < most and inbox[0].tag not in solos:
            orders.append(inbox.popleft())
        if inbox and not orders:
            orders.append(inbox.popleft())
            solos.discard(orders[0].tag)
        return orders

    def put_aside(self, scope: Scope, tags: Iterable[int]) -> None:
        """Let deliveries of one command wait for its trial."""
        self.set_aside.setdefault(scope, Work(scope, [])).tags.extend(tags)

    def as_received(self, tag: int) -> Delivery | None:
        """The open good delivery *tag* as it came, or None if it was too long to keep."""
        return self._kept.pop(tag, None)

    def done(self, tags: Collection[int]) -> None:
        """Acknowledge deliveries."""
        self.ledger.done(tags)
        for tag in tags:
            self._kept.pop(tag, None)
        self.settle()

    def settle(self) -> None:
        """Tell the broker what has been reported. If the session has ended there is nobody to tell."""
        settlement = self.ledger.take()
        if settlement is not None:
            self.session.settle(settlement)
