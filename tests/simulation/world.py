"""What everything in a simulation shares: the seed, the time, the faults of the moment, and the record of all that happened."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.simulation.clock import SimulatedLoop
from tests.simulation.plan import Plan

# Few and coarse, so that many things fall on the same moment and their order is left to chance.
_LATENCIES_S = (0.0, 0.0, 0.001, 0.001, 0.002, 0.005, 0.02)
_OUTAGES_S = (0.05, 0.3, 1.0, 4.0)


class Violation(Exception):
    """Something happened that must never happen."""


class World:
    """One run of one plan."""

    def __init__(self, plan: Plan, rng: random.Random, loop: SimulatedLoop) -> None:
        self.plan = plan
        self.rng = rng
        self.loop = loop
        self.history: list[tuple[float, str, str]] = []
        self.violation: str | None = None
        self.is_stormy = True
        """Whether faults come."""
        self.is_clear = False
        """Whether nothing lingers any more either: locks, triggers, letters that stay away."""
        self._ticks = 0
        self._outages: dict[str, float] = {}

    def note(self, who: str, what: str) -> None:
        """Write a line of history."""
        self.history.append((self.loop.time(), who, what))

    def forbid(self, text: str) -> None:
        """End the run: a promise was broken."""
        if self.violation is None:
            self.violation = text
            self.note("VIOLATION", text)

    def tick(self) -> int:
        """A number greater than all before: the order of inserts, publishes and snapshots."""
        self._ticks += 1
        return self._ticks

    def happens(self, rate: float) -> bool:
        """Whether a fault with this rate happens now."""
        return rate > 0 and self.is_stormy and self.rng.random() < rate

    def begin_outage(self, whose: str) -> None:
        """Let *whose* service be away for a while."""
        duration_s = self.rng.choice(_OUTAGES_S)
        self._outages[whose] = self.loop.time() + duration_s
        self.note(whose, f"is away for {duration_s:g} s")

    def is_away(self, whose: str) -> bool:
        """Whether *whose* service is away."""
        return self._outages.get(whose, 0.0) > self.loop.time()

    def calm_down(self) -> None:
        """No more faults; those that last end."""
        self.is_stormy = False
        self._outages.clear()
        self.note("weather", "calm")

    def latency_s(self) -> float:
        """How long a step of anybody takes."""
        return self.rng.choice(_LATENCIES_S)

    async def step(self) -> None:
        """Let a moment pass, if only one turn of the loop."""
        await asyncio.sleep(self.latency_s())

    def soon(self, what: Callable[[], None]) -> None:
        """Do *what* a moment later."""
        self.loop.call_later(self.latency_s(), what)
