"""
A delivery's whole way: receive, decode, collect, coalesce, clear, settle.

The pipeline decides; it reaches broker and database through the ports alone. While one batch is in the database the next
one gathers, so an idle worker handles a single command at once and a busy one takes what has arrived. No timer, no task
and no lock is spent on a message. What can never succeed goes its own way beside all this (:mod:`.burials`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_exception_type

from configcache.retry import RetryPolicy
from configcache.wire import ContractError, Properties, Reason, decode
from configcache_worker.core.burials import Burials
from configcache_worker.core.coalesce import Work, coalesce, split
from configcache_worker.core.faults import Blame, Pace, blame
from configcache_worker.core.intake import Intake
from configcache_worker.core.ports import (
    CacheTable,
    DeadLetters,
    Delivery,
    Letter,
    Position,
    Scope,
    Session,
    TableFault,
)
from configcache_worker.core.trials import Trials
from configcache_worker.core.waiting import now, wait_for

log = structlog.stdlib.get_logger()

_MEMO_BODY_BYTES: Final = 1024
_MEMO_ENTRIES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the pipeline."""

    prefetch: int = 5_000
    """Unsettled deliveries the broker lets us hold."""
    batch: int = 1_000
    """Most deliveries taken at once."""
    chunk_rows: int = 5_000
    """Most rows deleted in one transaction."""
    max_held_bytes: int = 32 * 1024 * 1024
    """Most bytes of unreadable messages held while the dead letters can't take them."""


@dataclass(slots=True)
class Totals:
    """What a pipeline has done since it was made."""

    received: int = 0
    cleared: int = 0
    """Commands whose rows are gone, committed."""
    rows: int = 0
    batches: int = 0
    """Passes that committed."""
    buried: int = 0
    """Deliveries copied to the dead letters with their reason."""
    rejected: int = 0
    """Deliveries left to the broker's own dead-lettering."""


class AbandonedBatch(Exception):
    """The session that a batch came from is gone, or the worker stops: there is nobody to settle it with."""


class Pipeline:
    """
    Take deliveries, clear what they ask for, and settle each exactly once.

    Args:
        table: The cached rows.
        dead_letters: Where deliveries go that can never succeed.
        policy: Delays between tries.
        limits: Bounds of memory and batch size.
    """

    def __init__(
        self, *, table: CacheTable, dead_letters: DeadLetters, policy: RetryPolicy, limits: Limits
    ) -> None:
        self._table = table
        self._policy = policy
        self._limits = limits
        self._burials = Burials(
            dead_letters=dead_letters,
            policy=policy,
            max_held_bytes=limits.max_held_bytes,
            on_settled=self._count_letters,
        )
        self._trials = Trials()
        self._memo: dict[tuple[bytes, Properties], Scope] = {}
        self._most = Pace(scopes=limits.batch, rows=limits.chunk_rows)
        self._pace = self._most
        self._intake: Intake | None = None
        self._paused: str | None = None
        self._draining = False
        self._work_came = asyncio.Event()
        self._intake_dropped = asyncio.Event()
        self._clearing: asyncio.Task[None] | None = None
        self.totals = Totals()

    def __repr__(self) -> str:
        return f"<Pipeline in_flight={self.in_flight} paused={self._paused!r} {self.totals}>"

    # what others ask of it

    @property
    def in_flight(self) -> int:
        """Deliveries received and not settled."""
        intake = self._intake
        return 0 if intake is None or intake.has_ended else intake.ledger.open_count

    def troubles(self) -> dict[str, str]:
        """Why this worker does not clear commands as they come, by stable word; empty when it does."""
        troubles = {}
        if self._paused is not None:
            troubles["database"] = self._paused
        waiting = len(self._intake.letters) if self._intake else 0
        if self._burials.has_overflowed or waiting > self._limits.prefetch // 2:
            troubles["dead-letters-unavailable"] = "messages that can't be read wait to be dead-lettered"
        return troubles

    async def ready_to_consume(self) -> None:
        """
        Wait until a session is worth opening: the table can be written, and the dead letters if they overflowed.

        Drops whatever the last session left.
        """
        self._intake = None
        self._intake_dropped.set()
        self._burials.drop_intake()
        await self._burials.recover()
        await AsyncRetrying(
            retry=retry_if_exception_type(TableFault), wait=self._policy, before_sleep=self._tell_pause
        )(self._table.probe)
        self._resume()

    async def run(self) -> None:
        """
        Clear and bury until drained. To be called once.

        A fault of this program in either ends both and is raised.
        """
        async with asyncio.TaskGroup() as tasks:
            self._clearing = tasks.create_task(self._clear_until_drained(), name="clear")
            tasks.create_task(self._burials.run(), name="bury")

    def drain(self) -> None:
        """Ask :meth:`run` to return once all that was received is settled, or can't be now. No more may come."""
        self._draining = True
        self._work_came.set()
        self._burials.drain()
        if self._paused is not None and self._clearing is not None:
            self._clearing.cancel()  # whatever it is trying just now: nobody should wait for that

    # receive, decode

    def receive(self, session: Session, deliveries: Sequence[Delivery]) -> None:
        """Take what one read from *session* brought. Synchronous: called between two reads of the socket."""
        intake = self._intake_of(session)
        self.totals.received += len(deliveries)
        refused: list[Delivery] = []
        for delivery in deliveries:
            if session.has_ended:
                return
            intake.ledger.opened(delivery.tag)
            if delivery.refusal is not None:
                refused.append(delivery)
                continue
            try:
                scope = self._decode(delivery)
            except ContractError as error:
                self._burials.condemn(intake, Letter(delivery, error.reason, error.detail))
            else:
                intake.enqueue(delivery, scope)
        if refused:
            self._refuse(intake, refused)
        if intake.inbox:
            self._work_came.set()

    def _intake_of(self, session: Session) -> Intake:
        if self._intake is None or self._intake.session is not session:
            self._intake = Intake(session)
        return self._intake

    def _decode(self, delivery: Delivery) -> Scope:
        key = (delivery.body, delivery.properties)
        scope = self._memo.get(key)
        if scope is None:
            command = decode(delivery.body, delivery.properties)
            scope = Scope(command.application, command.instance, command.associate_id)
            if len(delivery.body) <= _MEMO_BODY_BYTES:
                if len(self._memo) >= _MEMO_ENTRIES:
                    self._memo.clear()
                self._memo[key] = scope
        return scope

    def _refuse(self, intake: Intake, deliveries: Sequence[Delivery]) -> None:
        intake.refuse([delivery.tag for delivery in deliveries])
        self._count_letters(0, len(deliveries))
        reasons = Counter(delivery.refusal.value for delivery in deliveries if delivery.refusal)
        log.warning("deliveries.rejected", count=len(deliveries), reasons=dict(reasons))

    # collect, coalesce

    async def _clear_until_drained(self) -> None:
        while (intake := await self._work_waiting()) is not None:
            try:
                if (scope := self._due_scope(intake)) is not None:
                    await self._clear(intake, [intake.set_aside.pop(scope)])
                if intake.inbox:
                    await self._clear(intake, self._collect(intake))
            except AbandonedBatch:
                log.info("batch.abandoned", consequence="the broker hands these commands out again")

    async def _work_waiting(self) -> Intake | None:
        """The intake that has something to clear now, or None when drained."""
        while True:
            intake = self._intake if self._intake and not self._intake.has_ended else None
            if self._draining and self._paused:
                return None
            if intake and (intake.inbox or self._due_scope(intake)):
                return intake
            if self._draining:
                return None
            self._work_came.clear()
            await wait_for(self._work_came, timeout_s=self._next_due_in_s(intake))

    def _collect(self, intake: Intake) -> list[Work]:
        """Take what has arrived, up to the pace; leave commands under suspicion to trials of their own."""
        orders = intake.take(self._pace.scopes)
        if self._trials:
            for order in orders:
                if order.scope in self._trials:
                    intake.put_aside(order.scope, [order.tag])
            orders = [order for order in orders if order.scope not in self._trials]
        return coalesce(orders)

    def _due_scope(self, intake: Intake) -> Scope | None:
        """A command set aside whose next trial is due, if there is one."""
        moment = now()
        return next((scope for scope in intake.set_aside if self._trials.due(scope) <= moment), None)

    def _next_due_in_s(self, intake: Intake | None) -> float | None:
        if intake is None or not intake.set_aside:
            return None
        return max(min(map(self._trials.due, intake.set_aside)) - now(), 0.0)

    # clear, settle

    async def _clear(self, intake: Intake, works: list[Work]) -> None:
        """Clear *works*; take a failing group apart until each command has gone through or is set aside."""
        groups = [works] if works else []
        while groups:
            if self._is_gone(intake):
                raise AbandonedBatch
            group = groups.pop()
            started = now()
            try:
                rows = await self._clear_patiently(intake, group)
            except TableFault as fault:
                groups.extend(reversed(await self._after_fault(intake, group, fault)))
                if groups and self._trials.is_outage:
                    await self._sit_out(intake, fault)
            else:
                self._committed(intake, group, rows, duration_s=now() - started)

    async def _clear_patiently(self, intake: Intake, group: list[Work]) -> int:
        """Clear *group*; hold it for as long as the environment is at fault."""
        try:
            return await self._pass(group)
        except TableFault as fault:
            if blame(fault) is not Blame.ENVIRONMENT:
                raise
            first_delay_s = self._policy.delay_s(1)
            self._pause(str(fault), attempt=1, delay_s=first_delay_s)
        pause = partial(self._wait_or_abandon, intake)
        await pause(first_delay_s)
        return await AsyncRetrying(
            retry=retry_if_exception(_is_environment),
            wait=self._policy,
            sleep=pause,
            before_sleep=self._tell_pause,
            reraise=True,
        )(self._pass, group)

    async def _pass(self, group: Sequence[Work]) -> int:
        """One pass in key order, a transaction for each chunk. The rows deleted."""
        scopes = [work.scope for work in group]
        rows = 0
        after: Position | None = None
        while True:
            chunk = await self._table.clear(scopes, after=after, limit=self._pace.rows)
            rows += chunk.rows
            if chunk.last is None:
                return rows
            after = chunk.last

    def _committed(self, intake: Intake, group: list[Work], rows: int, *, duration_s: float) -> None:
        tags = [tag for work in group for tag in work.all_tags()]
        intake.done(tags)
        self.totals.cleared += len(tags)
        self.totals.rows += rows
        self.totals.batches += 1
        self._trials.went_through((work.scope for work in group), rows=rows)
        self._pace = self._pace.faster(self._most)
        self._resume()
        log.info(
            "batch.cleared",
            commands=len(tags),
            scopes=len(group),
            rows=rows,
            duration_s=round(duration_s, 6),
        )

    # what follows from a fault

    async def _after_fault(self, intake: Intake, group: list[Work], fault: TableFault) -> list[list[Work]]:
        """What to try next of *group*, in order. A single command at fault is set aside instead."""
        if blame(fault) is Blame.SIZE:
            return await self._ask_for_less(intake, group, fault)
        parts = split(group)
        if not parts:
            self._set_aside(intake, group[0], fault)
        return parts

    async def _ask_for_less(self, intake: Intake, group: list[Work], fault: TableFault) -> list[list[Work]]:
        slower = self._pace.slower(tried=len(group))
        self._paused = str(fault)
        log.warning("statement.too_slow", scopes=len(group), rows=self._pace.rows, error=str(fault))
        if slower is None:
            await self._sit_out(intake, fault)
            return [group]
        self._pace = slower
        return split(group) if len(group) > 1 else [group]

    def _set_aside(self, intake: Intake, work: Work, fault: TableFault) -> None:
        """Keep a command that failed alone for later, or dead-letter it when it stands convicted."""
        suspicion = self._trials.failed(work.scope, fault)
        if suspicion.is_convicted:
            self._convict(intake, work, fault)
            return
        self._trials.postpone(work.scope, suspicion, due=now() + self._policy.delay_s(suspicion.tries))
        intake.put_aside(work.scope, work.tags)
        log.warning(
            "command.set_aside",
            attempt=suspicion.tries,
            sqlstate=fault.sqlstate,
            error=str(fault),
            consequence="it is tried again alone; the other commands go on",
        )

    def _convict(self, intake: Intake, work: Work, fault: TableFault) -> None:
        log.error("command.convicted", deliveries=len(work.tags), sqlstate=fault.sqlstate, error=str(fault))
        detail = (
            "the database refused it three times, alone, while other commands went through: "
            f"SQLSTATE {fault.sqlstate}"
        )
        for tag in work.tags:
            delivery = intake.as_received(tag)
            if delivery is None:
                intake.refuse([tag])
                self._count_letters(0, 1)
            else:
                self._burials.condemn(intake, Letter(delivery, Reason.REFUSED_BY_DATABASE, detail))

    # pausing

    async def _sit_out(self, intake: Intake, fault: TableFault) -> None:
        """Wait before the next try of what is held: there is an outage, or nothing less to ask for."""
        attempt = max(self._trials.failed_in_a_row, 1)
        delay_s = self._policy.delay_s(attempt)
        self._pause(str(fault), attempt=attempt, delay_s=delay_s)
        await self._wait_or_abandon(intake, delay_s)

    def _pause(self, reason: str, *, attempt: int, delay_s: float) -> None:
        self._paused = reason
        log.warning(
            "database.paused",
            reason=reason,
            attempt=attempt,
            retry_in_s=round(delay_s, 3),
            consequence="commands are held, none is lost",
        )

    def _tell_pause(self, state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        self._pause(str(fault), attempt=state.attempt_number, delay_s=state.upcoming_sleep)

    def _resume(self) -> None:
        if self._paused is not None:
            self._paused = None
            log.info("database.resumed")

    async def _wait_or_abandon(self, intake: Intake, delay_s: float) -> None:
        """Let *delay_s* pass, unless there is no reason left to wait for it."""
        self._intake_dropped.clear()
        if not (self._draining or self._is_gone(intake)):
            await wait_for(self._intake_dropped, timeout_s=delay_s)
        if self._draining or self._is_gone(intake):
            raise AbandonedBatch

    def _is_gone(self, intake: Intake) -> bool:
        return intake.has_ended or intake is not self._intake

    def _count_letters(self, buried: int, rejected: int) -> None:
        self.totals.buried += buried
        self.totals.rejected += rejected


def _is_environment(error: BaseException) -> bool:
    return isinstance(error, TableFault) and blame(error) is Blame.ENVIRONMENT
