"""
Run one schedule: storm, calm, clear sky, stop; and check what must hold at any time and in the end.

Checked at any time: nothing is acknowledged before its rows or its letter are safe; each delivery is settled once, on its
own session; scopes are sorted, disjoint and asked for; no good command is dead-lettered, but one that the database refuses;
what is held stays in its bounds; a worker ends only when asked to, within its deadline, and leaves no settlement behind.

Checked in the end: faults over, everything is settled; the rows are those that one command after the other would have
left; all poison is in the dead letters; commands that nothing is wrong with did not wait for those that were held up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from configcache_worker.core.ports import Scope
from tests.simulation.broker import Message, SimulatedBroker, is_refused
from tests.simulation.clock import SimulatedLoop, Stuck
from tests.simulation.plan import APPLICATIONS, ASSOCIATES, INSTANCES, Plan, clear, make_plan
from tests.simulation.process import SimulatedProcess
from tests.simulation.table import Row, SimulatedTable
from tests.simulation.world import Violation, World

_CALM_S = 90.0
"""What nothing is wrong with is settled so long after the last fault."""
_CLEAR_S = 180.0
"""So is everything, so long after the last lock was let go."""
_POLL_S = 0.05
_CONTRAST_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a schedule went."""

    seed: int
    violation: str | None
    history: list[tuple[float, str, str]]
    plan: Plan

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {self.violation or 'all is well'}", str(self.plan), ""]
        lines += [f"{at_s:10.3f}  {who:<22} {what}" for at_s, who, what in self.history]
        return "\n".join(lines)


def simulate(seed: int, *, with_logs: bool = False) -> Outcome:
    """
    Run the schedule of *seed*.

    Args:
        seed: Any number.
        with_logs: Put the workers' log lines into the history, too. It changes nothing else.
    """
    rng = random.Random(seed)
    plan = make_plan(rng)
    loop = SimulatedLoop()
    world = World(plan, rng, loop)
    earlier = structlog.get_config()
    _configure_logs(world, with_logs=with_logs)
    try:
        _run(loop, _Schedule(world))
    finally:
        structlog.configure(**earlier)
    return Outcome(seed, world.violation, world.history, plan)


def _run(loop: SimulatedLoop, schedule: _Schedule) -> None:
    world = schedule.world
    loop.set_exception_handler(lambda _, context: world.forbid(f"nobody took care of {context}"))
    loop.on_turn = schedule.on_turn
    loop.horizon_s = world.plan.storm_s + _CALM_S + _CLEAR_S + 60.0
    runner = asyncio.Runner(loop_factory=lambda: loop)
    with runner:
        try:
            runner.run(schedule.run())
        except Stuck as stuck:
            world.forbid(str(stuck))
        except Violation:
            pass
        finally:
            loop.on_turn, loop.horizon_s = None, float("inf")


def _configure_logs(world: World, *, with_logs: bool) -> None:
    def record(_: object, level: str, event: dict[str, object]) -> str:
        name = event.pop("event")
        world.note("log", f"{level} {name} {event}")
        raise structlog.DropEvent

    level = logging.DEBUG if with_logs else logging.CRITICAL
    structlog.configure(
        processors=[record],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )


class _Schedule:
    """The course of one run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._plan = world.plan
        self._table = SimulatedTable(world)
        self._broker = SimulatedBroker(world, self._table)
        self._processes = [
            SimulatedProcess(number, self._broker, self._table) for number in range(1, self._plan.workers + 1)
        ]
        self._is_over = False
        weather = self._plan.weather
        self._nemesis: list[tuple[float, Callable[[], None]]] = [
            (rate, action)
            for rate, action in [
                (weather.cut, lambda: self._cut("a cable was pulled")),
                (weather.consumer_timeout, self._time_out_consumer),
                (weather.broker_outage, self._lose_broker),
                (weather.kill, lambda: self._any_process().kill()),
                (weather.stop, lambda: self._any_process().stop()),
                (weather.cancel, lambda: self._any_process().cancel()),
                (weather.table_outage, lambda: world.begin_outage("table")),
                (weather.letters_outage, lambda: world.begin_outage("letters")),
            ]
            if rate > 0
        ]

    async def run(self) -> None:
        self._table.fill()
        running = [asyncio.create_task(process.run()) for process in self._processes]
        await self._storm()
        self.world.calm_down()
        if self._is_isolation_promised():
            await self._until(
                lambda: self._is_settled(self._nothing_wrong), within_s=_CALM_S, what="a good command"
            )
        self.world.is_clear = True
        self.world.note("weather", "clear")
        contrasts = asyncio.create_task(self._publish_contrasts())
        await self._until(lambda: self._is_settled(lambda _: True), within_s=_CLEAR_S, what="a message")
        contrasts.cancel()
        for process in self._processes:
            process.stop(for_good=True)
        await asyncio.wait({*running, contrasts})
        self._check_end()
        self._is_over = True

    def on_turn(self) -> None:
        """Between any two steps of anybody: let a fault happen, and look whether all is well."""
        if self._is_over:
            return
        if self.world.violation is not None:
            raise Violation
        for process in self._processes:
            process.check_memory()
        if self.world.is_stormy:
            for rate, action in self._nemesis:
                if self.world.rng.random() < rate:
                    action()

    # what happens

    async def _storm(self) -> None:
        """Publish everything at odd moments, and build rows anew."""
        rng = self.world.rng
        ends_s = self.world.loop.time() + self._plan.storm_s
        gaps_s = self._plan.storm_s / len(self._plan.parcels)
        for parcel in self._plan.parcels:
            self._broker.publish(parcel)
            if rng.random() < 0.3:
                self._table.insert(self._any_row())
            if rng.random() < 0.3:
                await asyncio.sleep(rng.uniform(0, 3 * gaps_s))
        await asyncio.sleep(max(ends_s - self.world.loop.time(), 0))

    async def _publish_contrasts(self) -> None:
        """Only beside commands that go through is one convicted that never does."""
        innocent = [associate for associate in ASSOCIATES if associate not in self._plan.refused]
        while True:
            row = self._any_row()._replace(associate_id=self.world.rng.choice(innocent))
            self._table.insert(row)
            if any(not self._is_done(m) and is_refused(m, self.world) for m in self._broker.messages):
                self._broker.publish(clear(Scope(row.application, row.instance, row.associate_id)))
            await asyncio.sleep(_CONTRAST_S)

    def _cut(self, why: str) -> None:
        if self._broker.sessions:
            self.world.rng.choice(self._broker.sessions).cut(why)

    def _time_out_consumer(self) -> None:
        if self._broker.sessions:
            # Before 4.3 the channel is closed, from then on the consumer is cancelled, which counts no delivery.
            counts = self._plan.version != "4.3"
            self.world.rng.choice(self._broker.sessions).cut("consumer timeout", counts=counts)

    def _lose_broker(self) -> None:
        self.world.begin_outage("broker")
        self._broker.lose_everybody()

    def _any_process(self) -> SimulatedProcess:
        return self.world.rng.choice(self._processes)

    def _any_row(self) -> Row:
        rng = self.world.rng
        return Row(rng.choice(APPLICATIONS), rng.choice(INSTANCES), rng.choice(ASSOCIATES), "item 000")

    # what must hold

    def _is_isolation_promised(self) -> bool:
        """Whether what is held up leaves room for the others, wherever it was handed out."""
        limits = self._plan.limits
        held_up = [m for m in self._broker.messages if not self._is_done(m) and not self._nothing_wrong(m)]
        poison_bytes = sum(len(m.parcel.body) for m in held_up if m.parcel.scope is None)
        return len(held_up) < limits.prefetch and poison_bytes <= limits.max_held_bytes // 2

    def _nothing_wrong(self, message: Message) -> bool:
        """Whether this message should go through although something lingers."""
        scope = message.parcel.scope
        if scope is None:
            return not self._plan.letters_stay_away
        if is_refused(message, self.world):
            return False
        return (
            not self._plan.held if scope.associate_id is None else scope.associate_id not in self._plan.held
        )

    def _is_done(self, message: Message) -> bool:
        return message.state == "settled"

    def _is_settled(self, concerned: Callable[[Message], bool]) -> bool:
        return all(self._is_done(message) for message in self._broker.messages if concerned(message))

    async def _until(self, condition: Callable[[], bool], *, within_s: float, what: str) -> None:
        deadline_s = self.world.loop.time() + within_s
        while not condition():
            if self.world.loop.time() > deadline_s:
                waiting = [str(m) for m in self._broker.messages if not self._is_done(m)]
                self.world.forbid(f"{what} waited for longer than {within_s:g} s; open: {' '.join(waiting)}")
            await asyncio.sleep(_POLL_S)

    def _check_end(self) -> None:
        for message in self._broker.messages:
            scope = message.parcel.scope
            if scope is None and not message.is_dead:
                self.world.forbid(f"{message} is poison, and not in the dead letters")
            if scope is not None and not message.is_dead:
                stale = self._table.stale(scope, published=message.published)
                if stale:
                    self.world.forbid(f"{message} left {stale}")
        for row in self._table.unwanted_deletions():
            self.world.forbid(f"{row} is gone, and nobody asked for it")
