"""A contender as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks import processes
from benchmarks.contenders import OURS, Contender
from configcache_worker.local.ports import free_ports
from configcache_worker.local.process import Process
from configcache_worker.local.sandbox import Sandbox

_T = TypeVar("_T")

_PROJECT: Final = Path(__file__).parents[1]
_STOP_S: Final = 30.0
_POLL_S: Final = 0.02
_LOOK_S: Final = 1.0

PATIENCE_S: Final = 300.0
"""No run takes longer."""
_LOG_TAIL_CHARS: Final = 2_000


class ContenderFailed(Exception):
    """It ended, or did not do its work. The text ends with what it said."""


class Program:
    """A running contender. Made by :func:`running`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its first process."""
        return self._process.pid

    def pids(self) -> list[int]:
        """All of its processes."""
        return processes.tree(self._process.pid)

    def check(self) -> None:
        """Raise :class:`ContenderFailed` if it has ended."""
        if not self._process.is_running:
            raise ContenderFailed(f"it ended: {self.said()}")

    def said(self) -> str:
        """The end of its output."""
        return self._process.log()[-_LOG_TAIL_CHARS:].strip()

    async def ended(self) -> None:
        """Wait until it has ended by itself."""
        while self._process.is_running:
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """Ask it to end as an operator would, and wait. Safe to repeat."""
        # In a thread: its line to the broker may run through this process.
        await asyncio.to_thread(self._process.stop, signal.SIGTERM, timeout_s=_STOP_S)


@contextlib.contextmanager
def running(
    contender: Contender, broker_url: str, database_url: str, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Start *contender*; whatever of it still runs at the end is killed, and also if this process is."""
    sandbox = Sandbox("benchmark")
    try:
        variables = {**_environment(contender, broker_url, database_url), **(environment or {})}
        yield Program(sandbox.start("contender", contender.command, variables))
    finally:
        sandbox.close()


def _environment(contender: Contender, broker_url: str, database_url: str) -> Mapping[str, str]:
    """Nobody's settings but those of the run: ours are the defaults, whatever the caller's environment says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGCACHE_")}
    inherited["PYTHONPATH"] = str(_PROJECT)
    if contender != OURS:
        urls = {"BROKER_URL": broker_url, "DATABASE_URL": database_url}
        return inherited | urls | contender.environment
    return inherited | {
        "CONFIGCACHE_BROKER__URL": broker_url,
        "CONFIGCACHE_DATABASE__URL": database_url,
        "CONFIGCACHE_TELEMETRY__PORT": str(free_ports(1)[0]),
    }


async def while_alive(
    programs: Collection[Program], work: Coroutine[Any, Any, _T], *, timeout_s: float = PATIENCE_S
) -> _T:
    """
    Await *work*, which one of *programs* has to do.

    Raises:
        ContenderFailed: One ended before, or the work took too long.
    """
    waiting = asyncio.create_task(work)
    deadline = time.monotonic() + timeout_s
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=min(_LOOK_S, timeout_s))
            if waiting.done():
                break
            for program in programs:
                program.check()
            if time.monotonic() > deadline:
                said = "\n".join(program.said() for program in programs)
                raise ContenderFailed(f"not done in {timeout_s:g} s; it said: {said}")
        return await waiting
    finally:
        waiting.cancel()
