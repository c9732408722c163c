"""
A temporary folder, the processes started in it, and the promise that both are gone when their owner is.

The promise is kept by a guard: a shell that waits for the end of a pipe which only this process holds. However this
process ends, by return, exception or SIGKILL, the kernel closes the pipe; the guard then ends what still runs and
removes the folder. (A parent-death signal would be simpler, but it follows the *thread* that started the server, and
servers are often started from pool threads that end long before their owner.)

What to run, and when it is ready, is left to the servers.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from configcache_worker.local.process import Account, Process

# $0 is the folder, $1 the signal that makes the servers end at once and take their children with them.
_GUARD = """
trap '' HUP INT TERM
read -r _
send() { for f in "$0"/*.pid; do [ -f "$f" ] && kill -s "$1" -- "-$(cat "$f")"; done; }
runs() { for f in "$0"/*.pid; do [ -f "$f" ] && kill -s 0 -- "-$(cat "$f")" && return 0; done; return 1; }
send "$1"
for _ in 1 2 3 4 5 6 7 8 9 10; do runs || break; sleep 0.2; done
send KILL
for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$0" && exit; sleep 0.2; done
"""


class Sandbox:
    """
    A temporary folder with the processes started in it.

    Args:
        name: Part of the folder's name, for whoever finds it while it is in use.
        account: Who owns the folder and runs the processes; None for this process's own user.
        last_signal: What ends the processes at once should their owner have gone without :meth:`close`.
    """

    def __init__(
        self, name: str, *, account: Account | None = None, last_signal: signal.Signals = signal.SIGKILL
    ) -> None:
        self.account = account
        self.folder = Path(tempfile.mkdtemp(prefix=f"configcache-{name}-", dir=_parent_folder(account)))
        self._processes: list[Process] = []
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(self.folder), last_signal.name.removeprefix("SIG")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.give(self.folder)

    def __repr__(self) -> str:
        return f"<Sandbox {self.folder}>"

    def give(self, path: Path) -> None:
        """Make *path*, and everything in it, the account's."""
        if self.account:
            for each in (path, *path.rglob("*")):
                os.chown(each, self.account.uid, self.account.gid, follow_symlinks=False)

    def write(self, name: str, text: str, *, mode: int = 0o600) -> Path:
        """Write *text* to the new file *name*, the account's alone."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        self.give(path)
        return path

    def start(self, name: str, command: Sequence[str | Path], environment: Mapping[str, str]) -> Process:
        """Start *command* in the folder, as the account."""
        process = Process(name, command, environment, folder=self.folder, account=self.account)
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Kill what runs, the last started first, and remove the folder. Safe to repeat."""
        while self._processes:
            self._processes.pop().kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._guard.communicate()


def is_reachable(path: Path, account: Account | None) -> bool:
    """Whether *account* may enter every folder on the way to *path*; this process's own user always may."""
    return account is None or all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)


def _parent_folder(account: Account | None) -> Path:
    """Where temporary folders go, or ``/tmp`` where *account* can't reach that."""
    usual = Path(tempfile.gettempdir())
    return usual if is_reachable(usual / "any", account) else Path("/tmp")
