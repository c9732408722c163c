"""
What the core asks of the outside: deliveries in, rows cleared, dead letters out.

Three ports, lists in and values out. ``rabbitmq/`` and ``postgres/`` implement them on real servers. Nothing here does
anything; the pipeline decides, the rims act.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from configcache.wire import Properties, Reason


class Delivery(NamedTuple):
    """One hand-over of a message to us. Its *tag* counts from 1 and is valid in its own session alone."""

    tag: int
    body: bytes
    properties: Properties
    """The three properties that decide how the body is read."""
    solo: bool
    """The broker counted ten returns or more: it may be what kills its worker, so it runs in a batch of its own."""
    refusal: Reason | None
    """Set when the message can't be kept or read at all (too large, unreadable properties): it is rejected as it is,
    and the broker dead-letters its own identical copy."""
    size: int
    """Bytes that holding it costs: body and properties. 0: they are not held any more."""
    envelope: object
    """What the rim needs to copy the message to the dead letters. Opaque to the core."""


class Settlement(NamedTuple):
    """
    What to tell the broker now, in this order. Tags are of one session; each was never settled before.

    The rejects come first: the ``multiple`` acknowledgement after them would cover them as well.
    """

    rejects: Sequence[int]
    """Reject these without requeue: the broker dead-letters them."""
    ack_up_to: int | None
    """Acknowledge this tag and every unsettled one below it (AMQP ``multiple``)."""
    acks: Sequence[int]
    """Acknowledge these, one by one."""


class Session(Protocol):
    """One connection, one channel, one consumer. When any of the three ends, all of it has ended, for good."""

    @property
    def has_ended(self) -> bool: ...

    def settle(self, settlement: Settlement) -> bool:
        """
        Write *settlement* to the session's own channel, or do nothing if the session has ended.

        Synchronous on purpose: nothing can happen between the check and the write.

        Returns:
            Whether it was written.
        """
        ...

    def pause(self) -> None:
        """Read no more for now; what was read before may still arrive. Safe to repeat."""
        ...

    def resume(self) -> None:
        """Go on reading. Safe to repeat."""
        ...

    def end(self, reason: str) -> None:
        """End the session from our side; the broker takes back what is not settled. Safe to repeat."""
        ...


class Scope(NamedTuple):
    """Whose rows go: one associate's, or everybody's where *associate_id* is None."""

    application: str
    instance: str
    associate_id: int | None


class Position(NamedTuple):
    """Where a pass over sorted scopes stands: the last key cleared."""

    scope: int
    """Index into the scopes of the pass."""
    associate_id: int
    item: str


class Chunk(NamedTuple):
    """The outcome of one step of a pass, committed."""

    rows: int
    """Rows deleted, 0 or more."""
    last: Position | None
    """Where to continue, or None when the pass is complete."""


class CacheTable(Protocol):
    """The cached rows."""

    async def clear(self, scopes: Sequence[Scope], *, after: Position | None, limit: int) -> Chunk:
        """
        Delete up to *limit* rows of *scopes* that come after *after*, in key order, in one transaction; in a second one,
        up to as many again, where rows were updated meanwhile.

        Args:
            scopes: Sorted and disjoint, as :func:`~configcache_worker.core.coalesce.coalesce` gives them.
            after: The ``last`` of the chunk before, or None for a new pass.
            limit: Most rows in this transaction.

        Returns:
            The committed outcome: when this returns, the rows are gone.

        Raises:
            TableFault: It did not commit as a whole, or nobody knows whether it did. Safe to repeat.
        """
        ...

    async def probe(self) -> None:
        """
        Commit a DELETE of no rows: the proof that clearing would work.

        Raises:
            TableFault: It would not.
        """
        ...


class News(NamedTuple):
    """What a committed batch has cleared of one application and instance."""

    application: str
    instance: str
    associates: frozenset[int] | None
    """None: everybody's."""
    rows: int | None
    """Rows deleted, where that is known of this application and instance alone."""
    commands: int


class Announcer(Protocol):
    """Whoever tells others what was cleared. A hint: nobody waits for it."""

    def announce(self, news: Sequence[News]) -> None:
        """
        Take *news* over. Synchronous on purpose: a batch that is committed is acknowledged at once.

        What becomes of it is not told. It may be merged with other news, told twice, or lost with the process.
        """
        ...


class BatchTracer(Protocol):
    """Whoever follows batches on their way, each from its collection until all of it is settled or waits for later."""

    def processing(self, deliveries: Iterable[Delivery], *, count: int) -> AbstractContextManager[None]:
        """
        Around one batch, and the error that it may end with.

        Args:
            deliveries: Of the batch; to be read before the block, and no more of them than are needed.
            count: How many they are.
        """
        ...


class TableFault(Exception):
    """
    A statement on the cache table failed.

    Attributes:
        sqlstate: The server's SQLSTATE (five characters), or None when no answer came from the server.
        timed_out: Our own time limit ended it, on either side.
        unexpected: Neither server nor network said so: a fault of this program. Never held against a command.
    """

    def __init__(
        self, text: str, *, sqlstate: str | None = None, timed_out: bool = False, unexpected: bool = False
    ) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.timed_out = timed_out
        self.unexpected = unexpected


@dataclass(frozen=True, slots=True)
class Letter:
    """A delivery that can never succeed, with the reason to write on it."""

    delivery: Delivery
    reason: Reason
    detail: str
    """For a human; never contains the payload."""


class Burial(enum.Enum):
    """What became of a letter."""

    CONFIRMED = "confirmed"
    """The broker has it: the delivery may be acknowledged."""
    UNAVAILABLE = "unavailable"
    """Not confirmed in time, or not routed: keep the delivery open and try again."""
    UNENCODABLE = "unencodable"
    """Its properties leave no room for the reason: reject the delivery instead."""


class DeadLetters(Protocol):
    """Where deliveries go that can never succeed."""

    async def bury(self, letters: Sequence[Letter]) -> Sequence[Burial]:
        """
        Publish *letters* to the dead-letter exchange and wait for the confirms, a second at most.

        Never raises for the environment: a letter that is not known to be safe is ``UNAVAILABLE``.

        Returns:
            One outcome for each letter, in order.
        """
        ...
