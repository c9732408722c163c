"""Running programs: to their end, or as a long-lived process that can be killed with everything it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from configcache_worker.local.errors import ServerFailed

_LOG_TAIL_CHARS = 3_000
_POLL_S = 0.02
_DEATH_S = 5.0
_PROC = Path("/proc")

# The process writes down its own number before it becomes the program: at no instant does it run unrecorded.
# No core files: a server ended by SIGQUIT is no reason to write its memory to the disk.
_START = 'ulimit -c 0; echo $$ >"$0"; exec "$@"'


class Account(NamedTuple):
    """Another user, to run a program as."""

    uid: int
    gid: int


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    *,
    text_in: str = "",
    folder: Path | None = None,
    account: Account | None = None,
    timeout_s: float = 60.0,
) -> str:
    """
    Run *command* to its end, with *text_in* on its standard input, in *folder* and as *account* if given.

    Returns:
        What it wrote to its standard output.

    Raises:
        ServerFailed: It did not end in time, or not with 0; the text has what it said.
    """
    program = Path(command[0]).name
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=dict(environment),
            input=text_in,
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout_s,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except subprocess.TimeoutExpired as error:
        raise ServerFailed(f"{program} did not end within {timeout_s:g} s") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip())[-_LOG_TAIL_CHARS:]
        raise ServerFailed(f"{program} failed with {error.returncode}: {said}") from error
    return done.stdout


class Process:
    """
    One long-lived program: ``NAME.log`` in *folder* gets its output, ``NAME.pid`` its number for as long as it runs.

    It leads a session of its own: Ctrl-C in a terminal is for its owner, who ends the servers in its own order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        *,
        folder: Path,
        account: Account | None = None,
    ) -> None:
        self.name = name
        self._is_gone = False
        self._log = folder / f"{name}.log"
        self._number = folder / f"{name}.pid"
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                ["/bin/sh", "-c", _START, str(self._number), *map(str, command)],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )

    def __repr__(self) -> str:
        return f"<Process {self.name} {self.pid} {'running' if self.is_running else 'ended'}>"

    @property
    def pid(self) -> int:
        """The process's number, which is its group's too."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether the program itself runs."""
        return self._popen.poll() is None

    def log(self) -> str:
        """Everything it wrote so far, over all its starts."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """
        Wait until *is_ready* answers true.

        Raises:
            ServerFailed: The process ended before, or the time did and it was killed; the text ends with its log.
        """
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.is_running or time.monotonic() > deadline:
                what = f"was not ready within {timeout_s:g} s" if self.is_running else "ended while starting"
                self.kill()
                raise ServerFailed(f"{self.name} {what}:\n{self.log()[-_LOG_TAIL_CHARS:].strip()}")
            time.sleep(_POLL_S)

    def stop(self, request: signal.Signals, *, timeout_s: float) -> None:
        """Ask the program by the signal *request* to end; after *timeout_s*, kill it. Safe to repeat."""
        if self.is_running:
            os.kill(self.pid, request)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL the program and all that it started, and wait until they are gone. Safe to repeat."""
        if self._is_gone:
            return
        # Frozen first: a program that runs could start another one between the look and the kill.
        self._signal_group(signal.SIGSTOP)
        family = [self.pid, *descendants(self.pid)]
        self._signal_group(signal.SIGKILL)
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()
        deadline = time.monotonic() + _DEATH_S
        while any(map(_is_alive, family)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        self._number.unlink(missing_ok=True)
        # From here on the numbers may be other programs'.
        self._is_gone = True

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def descendants(pid: int) -> list[int]:
    """The processes that *pid* started, and theirs: all of them where there is a ``/proc``, else none."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        status = _status(int(folder.name))
        if status:
            children.setdefault(status.parent, []).append(int(folder.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


class _Status(NamedTuple):
    state: str
    parent: int


def _status(pid: int) -> _Status | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # "12 (name) S 1 ...", and the name may have spaces and parentheses in it.
    state, parent, *_ = text.rpartition(")")[2].split()
    return _Status(state, int(parent))


def _is_alive(pid: int) -> bool:
    """Whether *pid* runs: one that only waits to be reaped by init, whenever that may be, does not."""
    status = _status(pid)
    return status is not None and status.state not in "ZX"
