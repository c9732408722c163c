"""An event loop whose time is a number: waiting costs nothing, and the order of events is the same every time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

OWNER: ContextVar[list[asyncio.Task[Any]] | None] = ContextVar("OWNER", default=None)
"""Where a task, and all that it starts, is entered: so that a process can be killed with all its tasks at once."""


class Stuck(Exception):
    """Nothing will ever happen any more, or not in time."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """
    Jumps to the next timer when nothing is ready. Knows no sockets, no threads and no real clock.

    It builds on the private seams of ``asyncio.BaseEventLoop`` that its own subclasses use, since there is no public one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        self._selector = self
        self.horizon_s = float("inf")
        """A schedule that gets here is stuck."""
        self.on_turn: Callable[[], None] | None = None
        """Called before each turn of the loop: between any two steps of anybody."""
        self.set_task_factory(_entered)

    def time(self) -> float:
        return self._seconds

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise Stuck("everybody waits, and nobody will ever wake them")
        self._seconds += timeout
        if self._seconds > self.horizon_s:
            raise Stuck(f"not at rest after {self.horizon_s:g} s")
        if self.on_turn is not None:
            self.on_turn()
        return []

    def _process_events(self, event_list: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _entered(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, **options)
    context = options.get("context")
    owner = OWNER.get() if context is None else context.get(OWNER)
    if owner is not None:
        owner.append(task)
    return task
