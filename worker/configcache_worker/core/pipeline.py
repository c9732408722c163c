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
from collections.abc import Sequence

import structlog

from configcache.retry import RetryPolicy
from configcache.wire import ContractError
from configcache_worker.core.bounds import Limits, Totals
from configcache_worker.core.burials import Burials
from configcache_worker.core.clearing import Clearing
from configcache_worker.core.decoding import Decoder
from configcache_worker.core.intake import Intake
from configcache_worker.core.ports import Announcer, CacheTable, DeadLetters, Delivery, Letter, Session

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
    """

    def __init__(
        self,
        *,
        table: CacheTable,
        dead_letters: DeadLetters,
        policy: RetryPolicy,
        limits: Limits,
        announcer: Announcer | None = None,
    ) -> None:
        self.totals = Totals()
        self._limits = limits
        self._intake: Intake | None = None
        self._decoder = Decoder()
        self._burials = Burials(
            dead_letters=dead_letters,
            policy=policy,
            max_held_bytes=limits.max_held_bytes,
            totals=self.totals,
        )
        self._clearing = Clearing(
            table=table,
            policy=policy,
            limits=limits,
            totals=self.totals,
            condemn=self._burials.condemn,
            announcer=announcer,
        )

    def __repr__(self) -> str:
        return f"<Pipeline in_flight={self.in_flight} troubles={self.troubles()} {self.totals}>"

    @property
    def in_flight(self) -> int:
        """Deliveries received and not settled."""
        intake = self._intake
        return 0 if intake is None or intake.has_ended else intake.ledger.open_count

    def troubles(self) -> dict[str, str]:
        """Why this worker does not clear commands as they come, by stable word; empty when it does."""
        troubles = {}
        if self._clearing.paused is not None:
            troubles["database"] = self._clearing.paused
        unburied = self._intake.unburied if self._intake else 0
        if self._burials.has_overflowed or unburied > self._limits.prefetch // 2:
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
        refused: list[Delivery] = []
        intake.ledger.opened([delivery.tag for delivery in deliveries])
        for delivery in deliveries:
            if delivery.refusal is not None:
                refused.append(delivery)
                continue
            try:
                scope = self._decoder.scope(delivery.body, delivery.properties)
            except ContractError as error:
                self._burials.condemn(intake, delivery.tag, Letter(delivery, error.reason, error.detail))
            else:
                intake.enqueue(delivery, scope)
        if refused:
            self._refuse(intake, refused)
        if intake.inbox:
            self._clearing.offer(intake)

    def _intake_of(self, session: Session) -> Intake:
        if self._intake is None or self._intake.session is not session:
            self._intake = Intake(session)
        return self._intake

    def _refuse(self, intake: Intake, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._burials.condemn(intake, delivery.tag, None)
        intake.settle()
        reasons = Counter(delivery.refusal.value for delivery in deliveries if delivery.refusal)
        log.warning("deliveries.rejected", count=len(deliveries), reasons=dict(reasons))
