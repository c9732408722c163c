"""
Clear what the commands ask for: collect, coalesce, clear, settle; and decide what follows from a fault.

A failing batch is held while the environment is at fault, asked for in smaller parts where it takes too long, and
otherwise taken apart, all halves before all quarters, until each command has gone through or is set aside. So the others
never wait for long for the one at fault, whatever the fault is; and where nothing goes through, not much is asked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final, NamedTuple

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from configcache.retry import RetryPolicy
from configcache.wire import Reason
from configcache_worker.core.bounds import Limits
from configcache_worker.core.coalesce import Work, coalesce, deliveries, earliest, singles, split, tags
from configcache_worker.core.faults import Blame, Pace, blame
from configcache_worker.core.intake import Intake
from configcache_worker.core.news import news_of
from configcache_worker.core.ports import (
    Announcer,
    BatchTracer,
    CacheTable,
    Delivery,
    Letter,
    Position,
    Scope,
    TableFault,
)
from configcache_worker.core.totals import PauseCause, RetryCause, Totals
from configcache_worker.core.trials import Trials
from configcache_worker.core.waiting import now, wait_for

log = structlog.stdlib.get_logger()

_PATIENCE: Final = 3
"""So often a batch is tried again as it is before we ask whether it alone is held up."""

_HOPELESS: Final = 7
"""So many parts of a batch may fail (itself, halves, quarters), with none going through, before it is set aside whole."""

_HELD: Final = "commands are held, none is lost"


class Cleared(NamedTuple):
    """A pass that committed."""

    rows: int
    duration_s: float


class AbandonedBatch(Exception):
    """The session that a batch came from is gone, or the worker stops: there is nobody to settle it with."""


class Clearing:
    """
    The table's side of a pipeline.

    Args:
        table: The cached rows.
        policy: Delays between tries.
        limits: Bounds of a batch and a transaction.
        totals: Counts what was cleared.
        condemn: Takes over a delivery that can never succeed.
        announcer: Is told what was cleared, if anybody wants to know.
        age_s: How many seconds ago a delivery was published, if anybody wants to know.
        tracer: Follows batches, if anybody does.
    """

    def __init__(
        self,
        *,
        table: CacheTable,
        policy: RetryPolicy,
        limits: Limits,
        totals: Totals,
        condemn: Callable[[Intake, Letter], None],
        announcer: Announcer | None = None,
        age_s: Callable[[Delivery], float | None] | None = None,
        tracer: BatchTracer | None = None,
    ) -> None:
        self._table = table
        self._policy = policy
        self._totals = totals
        self._condemn = condemn
        self._announcer = announcer
        self._age_s = age_s
        self._tracer = tracer
        self._trials = Trials()
        self._most = Pace(scopes=limits.batch, rows=limits.chunk_rows)
        self._pace = self._most
        self._intake: Intake | None = None
        self._fruitless_rounds = 0
        self._paused_at = 0.0
        self._draining = False
        self._work_came = asyncio.Event()
        self._intake_dropped = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self.paused: str | None = None
        """Why nothing goes through at the moment."""
        self.is_busy = False
        """Whether a statement is in the database."""

    def offer(self, intake: Intake) -> None:
        """There is something in the inbox of *intake*."""
        self._intake = intake
        self._work_came.set()

    def drop_intake(self) -> None:
        """The session has ended: what it handed over is the broker's again."""
        self._intake = None
        self._intake_dropped.set()

    async def recover(self) -> None:
        """Wait until the table can be written."""
        await AsyncRetrying(
            retry=retry_if_exception_type(TableFault),
            wait=self._policy,
            before_sleep=partial(self._tell_pause, 0, "nothing is consumed meanwhile"),
        )(self._table.probe)
        self._resume()

    def drain(self) -> None:
        """Ask :meth:`run` to return once all that was received is settled, or can't be now."""
        self._draining = True
        self._work_came.set()
        if self.paused is not None and self._running is not None:
            self._running.cancel()  # whatever it is trying just now: nobody should wait for that

    async def run(self) -> None:
        """Clear until drained."""
        self._running = asyncio.current_task()
        while (intake := await self._work_waiting()) is not None:
            try:
                if intake.inbox:
                    first, works = self._collect(intake)
                    with self._following(works):
                        await self._clear(intake, works, patience=_PATIENCE, first=first)
                if (scope := self._due_scope(intake)) is not None:
                    self._totals.retries[RetryCause.SET_ASIDE] += 1
                    works = [intake.set_aside.pop(scope)]
                    with self._following(works):
                        await self._clear(intake, works, patience=0)
            except AbandonedBatch:
                log.info("batch.abandoned", consequence="the broker hands these commands out again")

    def _following(self, works: Sequence[Work]) -> AbstractContextManager[None]:
        if self._tracer is None or not works:
            return nullcontext()
        return self._tracer.processing(deliveries(works), count=len(tags(works)))

    # collect, coalesce

    async def _work_waiting(self) -> Intake | None:
        """The intake that has something to clear now, or None when drained."""
        while True:
            intake = self._intake if self._intake and not self._intake.has_ended else None
            if self._draining and self.paused:
                return None
            if intake and (intake.inbox or self._due_scope(intake)):
                return intake
            if self._draining:
                return None
            self._work_came.clear()
            await wait_for(self._work_came, timeout_s=self._next_due_in_s(intake))

    def _collect(self, intake: Intake) -> tuple[Delivery | None, list[Work]]:
        """
        Take what has arrived, up to the pace; leave commands under suspicion to trials of their own.

        Returns:
            The delivery that came first, None if all are under suspicion; and what there is to do.
        """
        orders = intake.take(self._pace.scopes)
        if self._trials:
            for delivery, scope in orders:
                if scope in self._trials:
                    intake.put_aside(scope, [delivery])
            orders = [order for order in orders if order[1] not in self._trials]
        return (orders[0][0] if orders else None), coalesce(orders)

    def _due_scope(self, intake: Intake) -> Scope | None:
        """A command set aside whose next trial is due, if there is one."""
        moment = now()
        return next((scope for scope in intake.set_aside if self._trials.due(scope) <= moment), None)

    def _next_due_in_s(self, intake: Intake | None) -> float | None:
        if intake is None or not intake.set_aside:
            return None
        return max(min(map(self._trials.due, intake.set_aside)) - now(), 0.0)

    # clear, settle

    async def _clear(
        self, intake: Intake, works: list[Work], *, patience: int, first: Delivery | None = None
    ) -> None:
        groups = deque([works] if works else [])
        refused: list[tuple[Work, TableFault]] = []
        untried: list[Work] = []
        fault: TableFault | None = None
        batches_before, failures = self._totals.batches, 0
        while groups:
            if self._is_gone(intake):
                raise AbandonedBatch
            group = groups.popleft()
            try:
                cleared = await self._clear_patiently(intake, group, patience=patience)
            except TableFault as caught:
                fault = caught
                parts = self._after_fault(group, fault)
                groups.extend(parts)
                if not parts:
                    refused.append((group[0], fault))
                failures += blame(fault) is not Blame.SIZE
                if failures == _HOPELESS and self._totals.batches == batches_before:
                    untried = [work for group in groups for work in singles(group)]
                    groups.clear()
            else:
                self._committed(intake, group, cleared, first=first if group is works else None)
            patience = 0  # what is taken apart has been waited for already
        if fault is not None and (refused or untried):
            self._set_aside(intake, refused, untried, fault)
            is_fruitless = self._totals.batches == batches_before
            self._judge(fault, is_outage=is_fruitless and (bool(untried) or self._trials.is_outage))

    async def _clear_patiently(self, intake: Intake, group: list[Work], *, patience: int) -> Cleared:
        """Clear *group*; hold it for as long as the environment is at fault, and not for this group alone."""
        try:
            return await self._pass(group)
        except TableFault as fault:
            if blame(fault) is not Blame.ENVIRONMENT or (not patience and await self._is_writable()):
                raise
            first_delay_s = self._policy.delay_s(1)
            self._pause(fault, attempt=1, delay_s=first_delay_s)
        pause = partial(self._wait_or_abandon, intake)
        await pause(first_delay_s)
        return await AsyncRetrying(
            retry=partial(self._is_outage, patience),
            wait=self._policy,
            sleep=pause,
            before_sleep=partial(self._tell_pause, 1, _HELD),
            reraise=True,
        )(self._pass, group)

    async def _is_outage(self, patience: int, state: RetryCallState) -> bool:
        fault = state.outcome.exception() if state.outcome else None
        if not isinstance(fault, TableFault) or blame(fault) is not Blame.ENVIRONMENT:
            return False
        return state.attempt_number < patience or not await self._is_writable()

    async def _is_writable(self) -> bool:
        try:
            await self._table.probe()
        except TableFault:
            return False
        return True

    async def _pass(self, group: Sequence[Work]) -> Cleared:
        """One pass in key order, a transaction for each chunk."""
        started = now()
        scopes = [work.scope for work in group]
        rows = 0
        after: Position | None = None
        self.is_busy = True
        try:
            while True:
                chunk = await self._table.clear(scopes, after=after, limit=self._pace.rows)
                rows += chunk.rows
                if chunk.last is None:
                    return Cleared(rows, now() - started)
                after = chunk.last
        finally:
            self.is_busy = False

    def _committed(
        self, intake: Intake, group: list[Work], cleared: Cleared, *, first: Delivery | None
    ) -> None:
        done = tags(group)
        intake.done(done)
        self._totals.committed(
            commands=len(done), scopes=len(group), rows=cleared.rows, duration_s=cleared.duration_s
        )
        # For the one delivery that has waited longest: reading what each says would cost more than clearing it.
        if self._age_s is not None and (age_s := self._age_s(first or earliest(group))) is not None:
            self._totals.lag_seconds.observe(age_s)
        self._trials.went_through((work.scope for work in group), rows=cleared.rows)
        self._pace = self._pace.faster(self._most)
        self._fruitless_rounds = 0
        self._resume()
        if self._announcer is not None:
            self._announcer.announce(news_of(group, rows=cleared.rows))
        log.info(
            "batch.cleared",
            commands=len(done),
            scopes=len(group),
            rows=cleared.rows,
            duration_s=round(cleared.duration_s, 6),
        )

    # what follows from a fault

    def _after_fault(self, group: list[Work], fault: TableFault) -> list[list[Work]]:
        """What to try instead of *group*; nothing if it is a single command, and there is nothing less to ask for."""
        if blame(fault) is Blame.SIZE:
            log.warning("statement.too_slow", scopes=len(group), rows=self._pace.rows, error=str(fault))
            slower = self._pace.slower(tried=len(group))
            if slower is not None:
                self._pace = slower
                self._totals.retries[RetryCause.TOO_SLOW] += 1
                return split(group) if len(group) > 1 else [group]
        parts = split(group)
        self._totals.retries[RetryCause.TAKEN_APART] += bool(parts)
        return parts

    def _set_aside(
        self,
        intake: Intake,
        refused: Sequence[tuple[Work, TableFault]],
        untried: Sequence[Work],
        fault: TableFault,
    ) -> None:
        """Let commands that failed alone, and those not tried alone, wait for trials of their own; or condemn them."""
        newly = [work for work, its_fault in refused if self._weigh(intake, work, its_fault) == 1]
        for work in untried:
            self._trials.postpone(work.scope, None, due=now())
            intake.put_aside(work.scope, work.deliveries)
        newly += untried
        if newly:
            log.warning(
                "commands.set_aside",
                count=len(newly),
                error=str(fault),
                **_named(newly[-1].scope),
                consequence="each is tried again alone; the other commands go on",
            )

    def _judge(self, fault: TableFault, *, is_outage: bool) -> None:
        """Go slow where nothing goes through any more."""
        if not is_outage:
            self._resume()
            return
        self._fruitless_rounds += 1
        delay_s = self._policy.delay_s(self._fruitless_rounds)
        self._trials.not_before = now() + delay_s
        self._pause(fault, attempt=self._fruitless_rounds, delay_s=delay_s)

    def _weigh(self, intake: Intake, work: Work, fault: TableFault) -> int:
        """Keep a command that failed alone for later, or condemn it if it stands convicted. How often it failed."""
        suspicion = self._trials.failed(work.scope, fault)
        if suspicion.is_convicted and not self._is_gone(intake):
            self._convict(intake, work, fault)
        else:
            due = now() + self._policy.delay_s(suspicion.tries)
            self._trials.postpone(work.scope, suspicion, due=due)
            intake.put_aside(work.scope, work.deliveries)
        return suspicion.tries

    def _convict(self, intake: Intake, work: Work, fault: TableFault) -> None:
        self._totals.convicted[Reason.REFUSED_BY_DATABASE] += 1
        log.error(
            "command.convicted",
            **_named(work.scope),
            deliveries=len(work.deliveries),
            error=str(fault),
            consequence="it goes to the dead letters",
        )
        detail = (
            "the database refused it three times, alone, while other commands went through: "
            f"SQLSTATE {fault.sqlstate}"
        )
        for delivery in work.deliveries:
            self._condemn(intake, Letter(delivery, Reason.REFUSED_BY_DATABASE, detail))

    # pausing

    def _pause(self, fault: BaseException, *, attempt: int, delay_s: float, consequence: str = _HELD) -> None:
        if self.paused is None:
            self._paused_at = now()
        self.paused = str(fault)
        self._totals.pauses.note(PauseCause.DATABASE, True, now())
        self._totals.retries[RetryCause.DATABASE] += 1
        log.warning(
            "database.paused",
            error=self.paused,
            attempt=attempt,
            retry_in_s=round(delay_s, 3),
            consequence=consequence,
        )

    def _tell_pause(self, earlier_attempts: int, consequence: str, state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        if fault is not None:
            attempt = earlier_attempts + state.attempt_number
            self._pause(fault, attempt=attempt, delay_s=state.upcoming_sleep, consequence=consequence)

    def _resume(self) -> None:
        if self.paused is not None:
            self.paused = None
            self._totals.pauses.note(PauseCause.DATABASE, False, now())
            log.info("database.resumed", paused_s=round(now() - self._paused_at, 3))

    async def _wait_or_abandon(self, intake: Intake, delay_s: float) -> None:
        """Let *delay_s* pass, unless there is no reason left to wait for it."""
        self._intake_dropped.clear()
        if not (self._draining or self._is_gone(intake)):
            await wait_for(self._intake_dropped, timeout_s=delay_s)
        if self._draining or self._is_gone(intake):
            raise AbandonedBatch

    def _is_gone(self, intake: Intake) -> bool:
        # Dropped or ended: the first is noticed at once, the second when somebody looks.
        return intake.has_ended or intake is not self._intake


def _named(scope: Scope) -> dict[str, object]:
    """A command as fields of a log line."""
    whose = "all" if scope.associate_id is None else scope.associate_id
    return {"application": scope.application, "instance": scope.instance, "associate": whose}
