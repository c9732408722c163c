"""A contender as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from benchmarks import processes
from benchmarks.contenders import OURS, Contender
from configcache_worker.local.ports import free_ports

_T = TypeVar("_T")

_PROJECT: Final = Path(__file__).parents[1]
_STOP_S: Final = 30.0
_LOOK_S: Final = 1.0

PATIENCE_S: Final = 300.0
"""No run takes longer."""
_LOG_TAIL_CHARS: Final = 2_000


class ContenderFailed(Exception):
    """It ended, or did not do its work. The text ends with what it said."""


class Program:
    """A running contender. Made by :func:`running`."""

    def __init__(self, popen: subprocess.Popen[bytes], output: Path) -> None:
        self._popen = popen
        self._output = output

    @property
    def pid(self) -> int:
        """Its first process."""
        return self._popen.pid

    def pids(self) -> list[int]:
        """All of its processes."""
        return processes.tree(self._popen.pid)

    def output(self) -> str:
        """What it has said."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Raise :class:`ContenderFailed` if it has ended."""
        if self._popen.poll() is not None:
            raise ContenderFailed(
                f"it ended with {self._popen.returncode}: {self.output()[-_LOG_TAIL_CHARS:]}"
            )

    def wait(self, timeout_s: float) -> str:
        """Wait until it ends by itself: what it said."""
        self._popen.wait(timeout_s)
        if self._popen.returncode:
            self.check()
        return self.output()

    async def stop(self) -> None:
        """Ask it to end as an operator would, and wait. Safe to repeat."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            # In a thread: its line to the broker may run through this process.
            await asyncio.to_thread(self._popen.wait, _STOP_S)


@contextlib.contextmanager
def running(
    contender: Contender, broker_url: str, database_url: str, environment: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """Start *contender*; whatever of it still runs at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="configcache-benchmark-") as folder:
        output = Path(folder) / "output"
        with output.open("wb") as file:
            popen = subprocess.Popen(
                contender.command,
                cwd=_PROJECT,
                env=_environment(contender, broker_url, database_url) | (environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Program(popen, output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()


def _environment(contender: Contender, broker_url: str, database_url: str) -> Mapping[str, str]:
    """Nobody's settings but those of the run: ours are the defaults, whatever the caller's environment says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGCACHE_")}
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
                said = "\n".join(program.output()[-_LOG_TAIL_CHARS:] for program in programs)
                raise ContenderFailed(f"not done in {timeout_s:g} s; it said: {said}")
        return await waiting
    finally:
        waiting.cancel()
