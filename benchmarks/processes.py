"""Processor time and memory of process trees, from ``/proc``."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from configcache_worker.local.process import descendants

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """*pid* and all that it started."""
    return [pid, *descendants(pid)]


def servers_named(program: str) -> list[int]:
    """Processes of *program* among those that this one started; none if the server is somebody else's."""
    return [pid for pid in descendants(os.getpid()) if _read(pid, "comm").strip() == program]


def cpu_s(pids: Iterable[int]) -> float:
    """
    Processor time of *pids* so far, in seconds.

    What a child used that has ended is its parent's, so a database's connections count when they are closed too.
    """
    ticks = 0
    for pid in pids:
        fields = _read(pid, "stat").rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # user, system, and both of children that ended
    return ticks / _TICKS_A_SECOND


def memory_bytes(pids: Iterable[int]) -> int:
    """What *pids* hold now; a page that several share counts once (the proportional set size)."""
    return sum(_kilobytes(pid, "smaps_rollup", "Pss") for pid in pids) * 1024


def resident_bytes(pid: int) -> int:
    """What *pid* has in memory now."""
    return _kilobytes(pid, "status", "VmRSS") * 1024


def peak_resident_bytes(pid: int) -> int:
    """The most that *pid* ever had in memory."""
    return _kilobytes(pid, "status", "VmHWM") * 1024


def _kilobytes(pid: int, file: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _read(pid, file), re.MULTILINE)
    return int(found[1]) if found else 0


def _read(pid: int, file: str) -> str:
    """Empty if the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8", errors="replace")
    return ""
