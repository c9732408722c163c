"""
A delivery's whole way: receive, decode, collect, coalesce, clear, settle.

The pipeline decides and remembers; it reaches broker and database through the ports alone. Two loops run beside each
other: one clears, one takes what can never succeed to the dead letters. While one batch is in the database the next one
gathers, so an idle worker handles a single command at once and a busy one takes what has arrived. No timer, no task
and no lock is spent on a message.

Everything that came with a session goes with it: when it ends, the broker hands the same messages out again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, retry_if_exception_type

from configcache.retry import RetryPolicy
from configcache.wire import ContractError, Properties, Reason, decode
from configcache_worker.core.coalesce import Order, Work, coalesce, split
from configcache_worker.core.faults import Blame, Pace, Suspicion, blame, suspect
from configcache_worker.core.ledger import Ledger
from configcache_worker.core.ports import (
    Burial,
    CacheTable,
    DeadLetters,
    Delivery,
    Letter,
    Scope,
    Session,
    TableFault,
)

log = structlog.stdlib.get_logger()

_LETTERS_AT_ONCE: Final = 100
_PATIENCE: Final = 3
"""So many commands may fail one after the other before it counts as an outage rather than as their fault."""
_MEMO_BODY_BYTES: Final = 1024
_MEMO_ENTRIES: Final = 4096
_KEPT_BYTES: Final = 4096
"""A good delivery longer than this is not kept for the unlikely case that the database refuses it."""
_REMEMBERED_SUSPICIONS: Final = 10_000


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
    """Most bytes of undecodable messages held while the dead letters can't take them."""


@dataclass(slots=True)
class Totals:
    """What a pipeline has done since it was made."""

    received: int = 0
    cleared: int = 0
    """Commands whose rows are gone, committed."""
    rows: int = 0
    batches: int = 0
    """Statement passes that committed."""
    buried: int = 0
    """Deliveries copied to the dead letters with their reason."""
    rejected: int = 0
    """Deliveries left to the broker's own dead-lettering."""


class AbandonedBatch(Exception):
    """The session that a batch came from is gone, or the worker stops: there is nobody to settle it with."""


@dataclass(slots=True, eq=False)
class Intake:
    """What one session has handed over, and what we owe it."""

    session: Session
    ledger: Ledger = field(default_factory=Ledger)
    inbox: deque[Order] = field(default_factory=deque)
    solos: set[int] = field(default_factory=set)
    """Tags in the inbox that run in a batch of their own."""
    kept: dict[int, Delivery] = field(default_factory=dict)
    """Open good deliveries as they came, in case the database convicts one."""
    set_aside: dict[Scope, Work] = field(default_factory=dict)
    letters: deque[Letter] = field(default_factory=deque)
    """Deliveries for the dead letters, not confirmed yet."""
    held_bytes: int = 0

    @property
    def has_ended(self) -> bool:
        return self.session.has_ended


@dataclass(slots=True)
class _Trial:
    """A command under suspicion: what speaks against it, and when it is tried again."""

    suspicion: Suspicion
    due: float


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
        self._dead_letters = dead_letters
        self._policy = policy
        self._limits = limits
        self._most = Pace(scopes=limits.batch, rows=limits.chunk_rows)
        self._pace = self._most
        self._intake: Intake | None = None
        self._memo: dict[tuple[bytes, Properties], Scope] = {}
        self._trials: dict[Scope, _Trial] = {}
        self._contrasts = 0
        self._failed_in_a_row = 0
        self._paused: str | None = None
        self._overflowed: Letter | None = None
        self._draining = False
        self._work_came = asyncio.Event()
        self._letters_came = asyncio.Event()
        self._gone = asyncio.Event()
        """Set when a session's things were dropped or the worker stops: nobody should go on waiting for them."""
        self.totals = Totals()

    def __repr__(self) -> str:
        return f"<Pipeline in_flight={self.in_flight} paused={self._paused!r} {self.totals}>"

    # What others ask of it

    @property
    def in_flight(self) -> int:
        """Deliveries received and not settled."""
        return 0 if self._intake is None or self._intake.has_ended else self._intake.ledger.open_count

    def troubles(self) -> dict[str, str]:
        """Why this worker does not clear commands as they come, by stable word; empty when it does."""
        troubles = {}
        if self._paused is not None:
            troubles["database"] = self._paused
        intake = self._intake
        if self._overflowed or (intake and len(intake.letters) > self._limits.prefetch // 2):
            troubles["dead-letters-unavailable"] = "messages that can't be read wait to be dead-lettered"
        return troubles

    async def ready_to_consume(self) -> None:
        """
        Wait until a session is worth opening: the table can be written, and the dead letters if they overflowed.

        Drops whatever the last session left.
        """
        self._drop_intake()
        while self._overflowed is not None:
            await self._bury_overflow(self._overflowed)
        await AsyncRetrying(
            retry=retry_if_exception_type(TableFault), wait=self._policy, before_sleep=self._tell_pause
        )(self._table.probe)
        self._resume()

    async def run(self) -> None:
        """
        Clear and bury until drained.

        A fault of this program in either loop ends both and is raised.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._clear_loop(), name="clear")
            tasks.create_task(self._bury_loop(), name="bury")

    def drain(self) -> None:
        """Ask :meth:`run` to return once all that was received is settled, or can't be now. No more may come."""
        self._draining = True
        self._work_came.set()
        self._letters_came.set()
        if self._paused is not None:
            self._gone.set()

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
                self._condemn(intake, Letter(delivery, error.reason, error.detail))
            else:
                self._enqueue(intake, delivery, scope)
        if refused:
            self._refuse(intake, refused)
        if intake.inbox:
            self._work_came.set()

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

    def _enqueue(self, intake: Intake, delivery: Delivery, scope: Scope) -> None:
        intake.inbox.append(Order(delivery.tag, scope))
        if delivery.solo:
            intake.solos.add(delivery.tag)
        if delivery.size <= _KEPT_BYTES:
            intake.kept[delivery.tag] = delivery

    def _refuse(self, intake: Intake, deliveries: Sequence[Delivery]) -> None:
        """Leave *deliveries* to the broker's own dead-lettering."""
        intake.ledger.refused(delivery.tag for delivery in deliveries)
        self.totals.rejected += len(deliveries)
        self._settle(intake)
        reasons = Counter(delivery.refusal.value for delivery in deliveries if delivery.refusal)
        log.warning("deliveries.rejected", count=len(deliveries), reasons=dict(reasons))

    def _condemn(self, intake: Intake, letter: Letter) -> None:
        intake.letters.append(letter)
        intake.held_bytes += letter.delivery.size
        self._letters_came.set()
        if intake.held_bytes > self._limits.max_held_bytes:
            self._overflowed = letter
            intake.session.end("more unreadable messages than may be held while they can't be dead-lettered")

    def _intake_of(self, session: Session) -> Intake:
        if self._intake is None or self._intake.session is not session:
            self._intake = Intake(session)
        return self._intake

    def _drop_intake(self) -> None:
        self._intake = None
        self._gone.set()

    # collect, coalesce

    async def _clear_loop(self) -> None:
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
            await _wait_for(self._work_came, timeout_s=self._next_due_in(intake))

    def _collect(self, intake: Intake) -> list[Work]:
        """Take what has arrived, up to the pace; leave commands under suspicion to their own trials."""
        orders = self._take_orders(intake)
        if not intake.set_aside and not self._trials:
            return coalesce(orders)
        innocent = []
        for order in orders:
            if order.scope in self._trials:
                intake.set_aside.setdefault(order.scope, Work(order.scope, [])).tags.append(order.tag)
            else:
                innocent.append(order)
        return coalesce(innocent)

    def _take_orders(self, intake: Intake) -> list[Order]:
        inbox, solos = intake.inbox, intake.solos
        if not solos:
            return [inbox.popleft() for _ in range(min(len(inbox), self._pace.scopes))]
        orders: list[Order] = []
        while inbox and len(orders) < self._pace.scopes and inbox[0].tag not in solos:
            orders.append(inbox.popleft())
        if not orders:
            orders.append(inbox.popleft())
            solos.discard(orders[0].tag)
        return orders

    # clear

    async def _clear(self, intake: Intake, works: list[Work]) -> None:
        """Clear *works*; take a failing group apart until each command has gone through or is set aside."""
        groups = [works] if works else []
        while groups:
            if intake.has_ended or intake is not self._intake:
                raise AbandonedBatch
            group = groups.pop()
            started = _now()
            try:
                rows = await self._clear_patiently(intake, group)
            except TableFault as fault:
                groups.extend(reversed(await self._after_fault(intake, group, fault)))
                if groups and self._failed_in_a_row >= _PATIENCE:
                    await self._sit_out(intake, fault)
            else:
                self._committed(intake, group, rows, duration_s=_now() - started)

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
        rows, after = 0, None
        while True:
            chunk = await self._table.clear(scopes, after=after, limit=self._pace.rows)
            rows += chunk.rows
            if chunk.last is None:
                return rows
            after = chunk.last

    async def _sit_out(self, intake: Intake, fault: TableFault) -> None:
        """Nothing goes through any more: that is an outage, whatever the SQLSTATE says."""
        delay_s = self._policy.delay_s(self._failed_in_a_row)
        self._pause(str(fault), attempt=self._failed_in_a_row, delay_s=delay_s)
        await self._wait_or_abandon(intake, delay_s)

    def _committed(self, intake: Intake, group: list[Work], rows: int, *, duration_s: float) -> None:
        tags = [tag for work in group for tag in work.all_tags()]
        self.totals.cleared += len(tags)
        self.totals.rows += rows
        self.totals.batches += 1
        self._contrasts += rows > 0
        self._failed_in_a_row = 0
        self._pace = self._pace.faster(self._most)
        self._resume()
        if self._trials:
            for work in group:
                self._trials.pop(work.scope, None)
        self._finish(intake, tags)
        log.info(
            "batch.cleared", commands=len(tags), scopes=len(group), rows=rows, duration_s=round(duration_s, 6)
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
            await self._wait_or_abandon(intake, self._policy.delay_s(_PATIENCE))
            return [group]
        self._pace = slower
        return split(group) if len(group) > 1 else [group]

    def _set_aside(self, intake: Intake, work: Work, fault: TableFault) -> None:
        """Keep a command that failed alone for later, or dead-letter it when it stands convicted."""
        trial = self._trials.get(work.scope)
        suspicion = suspect(trial.suspicion if trial else None, fault, contrasts=self._contrasts)
        self._failed_in_a_row += 1
        if suspicion.is_convicted:
            self._convict(intake, work, fault)
            return
        delay_s = self._policy.delay_s(suspicion.tries)
        self._remember(work.scope, _Trial(suspicion, due=_now() + delay_s))
        intake.set_aside.setdefault(work.scope, Work(work.scope, [])).tags.extend(work.tags)
        log.warning(
            "command.set_aside",
            attempt=suspicion.tries,
            sqlstate=fault.sqlstate,
            error=str(fault),
            consequence="it is tried again alone; the other commands go on",
        )

    def _convict(self, intake: Intake, work: Work, fault: TableFault) -> None:
        del self._trials[work.scope]
        detail = f"the database refused it three times, alone, while other commands went through: SQLSTATE {fault.sqlstate}"
        log.error("command.convicted", deliveries=len(work.tags), sqlstate=fault.sqlstate, error=str(fault))
        for tag in work.tags:
            delivery = intake.kept.pop(tag, None)
            if delivery is None:
                intake.ledger.refused((tag,))
                self.totals.rejected += 1
            else:
                self._condemn(intake, Letter(delivery, Reason.REFUSED_BY_DATABASE, detail))
        self._settle(intake)

    def _remember(self, scope: Scope, trial: _Trial) -> None:
        self._trials[scope] = trial
        if len(self._trials) > _REMEMBERED_SUSPICIONS:
            del self._trials[next(iter(self._trials))]

    def _due_scope(self, intake: Intake) -> Scope | None:
        """A command set aside whose next trial is due, if there is one."""
        now = _now()
        for scope in intake.set_aside:
            trial = self._trials.get(scope)
            if trial is None or trial.due <= now:
                return scope
        return None

    def _next_due_in(self, intake: Intake | None) -> float | None:
        if intake is None or not intake.set_aside:
            return None
        dues = [trial.due for scope in intake.set_aside if (trial := self._trials.get(scope))]
        return max(min(dues, default=0.0) - _now(), 0.0)

    # settle

    def _finish(self, intake: Intake, tags: Iterable[int]) -> None:
        intake.ledger.done(tags)
        for tag in tags:
            intake.kept.pop(tag, None)
        self._settle(intake)

    def _settle(self, intake: Intake) -> None:
        settlement = intake.ledger.take()
        if settlement is not None:
            intake.session.settle(settlement)

    # dead letters

    async def _bury_loop(self) -> None:
        failures = 0
        while (intake := await self._letters_waiting()) is not None:
            letters = [intake.letters.popleft() for _ in range(min(len(intake.letters), _LETTERS_AT_ONCE))]
            unburied = self._buried(intake, letters, await self._dead_letters.bury(letters))
            failures = failures + 1 if unburied else 0
            if failures:
                if self._draining:
                    return
                await asyncio.sleep(self._policy.delay_s(failures))

    async def _letters_waiting(self) -> Intake | None:
        while True:
            if (intake := self._intake) and not intake.has_ended and intake.letters:
                return intake
            if self._draining:
                return None
            self._letters_came.clear()
            await self._letters_came.wait()

    def _buried(self, intake: Intake, letters: list[Letter], outcomes: Sequence[Burial]) -> int:
        """Settle the letters that are safe, keep the others. How many are not."""
        reasons: Counter[str] = Counter()
        unburied = []
        for letter, outcome in zip(letters, outcomes, strict=True):
            if outcome is Burial.UNAVAILABLE:
                unburied.append(letter)
                continue
            intake.held_bytes -= letter.delivery.size
            tags = (letter.delivery.tag,)
            if outcome is Burial.CONFIRMED:
                intake.ledger.done(tags)
                self.totals.buried += 1
            else:
                intake.ledger.refused(tags)
                self.totals.rejected += 1
            reasons[letter.reason.value] += 1
        intake.letters.extend(unburied)
        self._settle(intake)
        if reasons:
            log.warning("letters.buried", count=reasons.total(), reasons=dict(reasons))
        return len(unburied)

    async def _bury_overflow(self, letter: Letter) -> None:
        for attempt in range(1, 1_000_000):
            (outcome,) = await self._dead_letters.bury([letter])
            if outcome is not Burial.UNAVAILABLE:
                break
            await asyncio.sleep(self._policy.delay_s(attempt))
        self._overflowed = None

    # pausing

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
        self._gone.clear()
        if not (self._draining or intake.has_ended or intake is not self._intake):
            await _wait_for(self._gone, timeout_s=delay_s)
        if self._draining or intake.has_ended or intake is not self._intake:
            raise AbandonedBatch


def _is_environment(error: BaseException) -> bool:
    return isinstance(error, TableFault) and blame(error) is Blame.ENVIRONMENT


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _wait_for(event: asyncio.Event, *, timeout_s: float | None) -> None:
    """Wait until *event* is set or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
