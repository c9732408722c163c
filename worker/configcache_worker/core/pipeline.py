"""
A delivery's whole way: receive, decode, collect, coalesce, clear, settle.

Deliveries are received and decoded here, synchronously, between two reads of the socket. What they ask for is cleared in
:mod:`.clearing`; what can never succeed is taken to the dead letters in :mod:`.burials`, beside all this. While one batch
is in the database the next one gathers, so an idle worker handles a single command at once and a busy one takes what has
arrived. No timer, no task and no lock is spent on a message.

Broker and database are reached through the ports alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from configcache.retry import RetryPolicy
from configcache.wire import ContractError, Reason
from configcache_worker.core.bounds import Limits
from configcache_worker.core.burials import Burials
from configcache_worker.core.clearing import Clearing
from configcache_worker.core.decoding import Decoder
from configcache_worker.core.intake import Intake
from configcache_worker.core.ports import (
    Announcer,
    BatchTracer,
    CacheTable,
    DeadLetters,
    Delivery,
    Letter,
    Session,
)
from configcache_worker.core.totals import Totals

log = structlog.stdlib.get_logger()


class Pipeline:
    """
    Take deliveries, clear what they ask for, and settle each exactly once.

    Args:
        table: The cached rows.
        dead_letters: Where deliveries go that can never succeed.
        policy: Delays between tries.
        limits: Bounds of memory and batch size.
        announcer: Is told what was cleared, if anybody wants to know.
        age_s: How many seconds ago a delivery's message was published, None if it does not say. Asked once for each batch;
            if nobody wants to know, not at all.
        tracer: Follows batches, if anybody does.
    """

    def __init__(
        self,
        *,
        table: CacheTable,
        dead_letters: DeadLetters,
        policy: RetryPolicy,
        limits: Limits,
        announcer: Announcer | None = None,
        age_s: Callable[[Delivery], float | None] | None = None,
        tracer: BatchTracer | None = None,
    ) -> None:
        self.totals = Totals()
        self._intake: Intake | None = None
        self._decoder = Decoder()
        self._burials = Burials(
            dead_letters=dead_letters,
            policy=policy,
            max_held_bytes=limits.max_held_bytes,
            most_unburied=limits.prefetch // 2,
            totals=self.totals,
        )
        self._clearing = Clearing(
            table=table,
            policy=policy,
            limits=limits,
            totals=self.totals,
            condemn=self._burials.condemn,
            announcer=announcer,
            age_s=age_s,
            tracer=tracer,
        )

    def __repr__(self) -> str:
        return f"<Pipeline in_flight={self.in_flight} troubles={self.troubles()} {self.totals}>"

    @property
    def in_flight(self) -> int:
        """Deliveries received and not settled."""
        intake = self._intake
        return 0 if intake is None or intake.has_ended else intake.ledger.open_count

    @property
    def is_clearing(self) -> bool:
        """Whether a statement is in the database."""
        return self._clearing.is_busy

    @property
    def set_aside(self) -> int:
        """Commands that failed alone and wait for trials of their own."""
        return len(self._intake.set_aside) if self._intake and not self._intake.has_ended else 0

    @property
    def unburied(self) -> int:
        """Deliveries that wait for their letters to be confirmed."""
        return self._burials.unburied

    @property
    def held_bytes(self) -> int:
        """What these hold of the memory."""
        return self._burials.held_bytes

    def troubles(self) -> dict[str, str]:
        """Why this worker does not clear commands as they come, by stable word; empty when it does."""
        troubles = {}
        if self._clearing.paused is not None:
            troubles["database"] = self._clearing.paused
        if self._burials.are_unavailable:
            troubles["dead-letters-unavailable"] = "messages that can't be read wait to be dead-lettered"
        return troubles

    async def ready_to_consume(self) -> None:
        """
        Wait until a session is worth opening: the table can be written, and the dead letters if they overflowed.

        Drops whatever the last session left.
        """
        self._intake = None
        self._clearing.drop_intake()
        self._burials.drop_intake()
        await self._burials.recover()
        await self._clearing.recover()

    async def run(self) -> None:
        """
        Clear and bury until drained. To be called once.

        A fault of this program in either ends both and is raised.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._clearing.run(), name="clear")
            tasks.create_task(self._burials.run(), name="bury")

    def drain(self) -> None:
        """Ask :meth:`run` to return once all that was received is settled, or can't be now. No more may come."""
        self._clearing.drain()
        self._burials.drain()

    def receive(self, session: Session, deliveries: Sequence[Delivery]) -> None:
        """Take what one read from *session* brought. Synchronous: called between two reads of the socket."""
        intake = self._intake_of(session)
        self.totals.received += len(deliveries)
        refused: Counter[Reason] = Counter()
        intake.ledger.opened([delivery.tag for delivery in deliveries])
        for delivery in deliveries:
            if delivery.refusal is not None:
                self._burials.condemn(intake, Letter(delivery, delivery.refusal, ""))
                refused[delivery.refusal] += 1
                continue
            try:
                scope = self._decoder.scope(delivery.body, delivery.properties)
            except ContractError as error:
                self._burials.condemn(intake, Letter(delivery, error.reason, error.detail))
            else:
                intake.enqueue(delivery, scope)
        if refused:
            intake.settle()
            log.warning("deliveries.rejected", count=refused.total(), reasons={**refused})
        if intake.inbox:
            self._clearing.offer(intake)

    def _intake_of(self, session: Session) -> Intake:
        if self._intake is None or self._intake.session is not session:
            self._intake = Intake(session)
        return self._intake
