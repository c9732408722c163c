"""A simulated worker process: the real worker on simulated ports, started again whenever it has ended."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from configcache.retry import RetryPolicy
from configcache_worker.app import Worker
from configcache_worker.core.pipeline import Pipeline
from tests.simulation.broker import DeadLettersPort, DeliveriesPort, SimulatedBroker
from tests.simulation.clock import OWNER
from tests.simulation.table import SimulatedTable, TablePort

DRAIN_TIMEOUT_S = 5.0
LONGEST_RETRY_S = 1.0
_STOPPED_IN_S = DRAIN_TIMEOUT_S + 3.0
_RESTARTS_S = (0.01, 0.1, 0.5)


class SimulatedProcess:
    """Runs one worker after another until told to end for good."""

    def __init__(self, number: int, broker: SimulatedBroker, table: SimulatedTable) -> None:
        self._number = number
        self._broker = broker
        self._table = table
        self._world = broker.world
        self._lives = 0
        self._name = ""
        self._is_killed = self._is_cancelled = self._is_last = False
        self._stopped_at: float | None = None
        self._life: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self.worker: Worker | None = None

    async def run(self) -> None:
        while not self._is_last:
            self._begin()
            await self._live()
            if not self._is_last:
                await asyncio.sleep(self._world.rng.choice(_RESTARTS_S))

    def kill(self) -> None:
        """SIGKILL: no instruction of it has any effect from here on."""
        if self._life is None or self._life.done() or self._is_killed:
            return
        self._world.note(self._name, "killed")
        self._is_killed = True
        for session in self._deliveries.opened:
            session.is_abandoned = True
            session.cut("its process was killed")
        for task in self._tasks:
            task.cancel()

    def cancel(self) -> None:
        """Cancel the worker, once and before it ends by itself: it closes what it has, and settles nothing more."""
        if self._life is None or self.worker is None or self._stopped_at is not None or self._is_cancelled:
            return
        if not self.worker.sessions.has_ended:
            self._world.note(self._name, "cancelled")
            self._is_cancelled = True
            self._life.cancel()

    def stop(self, *, for_good: bool = False) -> None:
        """SIGTERM."""
        self._is_last |= for_good
        if self.worker is not None and self._stopped_at is None:
            self._world.note(self._name, "asked to stop")
            self._stopped_at = self._world.loop.time()
            self.worker.stop()

    def check_memory(self) -> None:
        """Hold what it holds against its bounds."""
        if self.worker is None:
            return
        limits, pipeline = self._world.plan.limits, self.worker.pipeline
        if pipeline.in_flight > limits.prefetch:
            self._world.forbid(f"{self._name} holds {pipeline.in_flight} deliveries")
        intake = pipeline._intake
        # A convicted command counts as poison from then on, and was held before.
        if intake is not None and not self._world.plan.refused and intake.held_bytes > limits.max_held_bytes:
            self._world.forbid(f"{self._name} holds {intake.held_bytes} bytes of poison")

    def _begin(self) -> None:
        self._lives += 1
        self._name = f"worker {self._number}.{self._lives}"
        self._is_killed, self._is_cancelled, self._stopped_at = False, False, None
        table = TablePort(self._table, self._name)
        dead_letters = DeadLettersPort(self._world, self._name)
        policy = RetryPolicy(longest_s=LONGEST_RETRY_S, random=self._world.rng)
        pipeline = Pipeline(
            table=table, dead_letters=dead_letters, policy=policy, limits=self._world.plan.limits
        )
        self._deliveries = DeliveriesPort(
            self._broker, self._name, receive=pipeline.receive, table=table, dead_letters=dead_letters
        )
        self.worker = Worker(
            pipeline=pipeline,
            table=table,
            deliveries=self._deliveries,
            dead_letters=dead_letters,
            policy=policy,
            drain_timeout_s=DRAIN_TIMEOUT_S,
            health_address=None,
        )
        self._world.note(self._name, "starts")
        self._tasks = []
        context = contextvars.copy_context()
        context.run(OWNER.set, self._tasks)
        self._life = asyncio.create_task(self.worker.run(), name=self._name, context=context)

    async def _live(self) -> None:
        assert self._life is not None
        await asyncio.wait({self._life})
        self.worker = None
        if self._is_killed:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            return
        left = [task.get_name() for task in self._tasks if not task.done()]
        left += [session.name for session in self._deliveries.opened if not session.is_closed]
        if left:
            self._world.forbid(f"{self._name} left {left} behind")
        error = None if self._life.cancelled() else self._life.exception()
        if error is not None:
            self._world.note(self._name, f"died: {error!r}")
            if "sabotage" not in repr(error):
                self._world.forbid(f"{self._name} died of {error!r}")
        elif self._is_cancelled:
            self._world.note(self._name, "ended")
        elif self._stopped_at is None:
            self._world.forbid(f"{self._name} ended though nobody asked it to")
        else:
            lost = sum(session.lost_at_close for session in self._deliveries.opened)
            if lost:
                self._world.forbid(f"{self._name} stopped with {lost} settlements on their way")
            took_s = self._world.loop.time() - self._stopped_at
            self._world.note(self._name, f"stopped in {took_s:.3f} s")
            if took_s > _STOPPED_IN_S:
                self._world.forbid(f"{self._name} took {took_s:g} s to stop")
