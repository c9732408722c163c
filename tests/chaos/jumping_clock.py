"""
A worker whose clocks jump, run as a program: SIGUSR1 sets the wall clock a day on, or two days back, by turns; SIGUSR2
moves the monotonic clock an hour on, as it does on a machine that was asleep where the system counts that time.
"""

import itertools
import signal
import sys
import time

DAY_S = 86_400

_wall, _wall_ns, _monotonic = time.time, time.time_ns, time.monotonic
_jumps = itertools.cycle([DAY_S, -2 * DAY_S])
_offsets_s = {"wall": 0, "monotonic": 0}


def _jump(_number: int, _frame: object) -> None:
    _offsets_s["wall"] += next(_jumps)


def _leap(_number: int, _frame: object) -> None:
    _offsets_s["monotonic"] += 3_600


time.time = lambda: _wall() + _offsets_s["wall"]
time.time_ns = lambda: _wall_ns() + _offsets_s["wall"] * 10**9
time.monotonic = lambda: _monotonic() + _offsets_s["monotonic"]
signal.signal(signal.SIGUSR1, _jump)
signal.signal(signal.SIGUSR2, _leap)

if __name__ == "__main__":
    from configcache_worker.__main__ import main

    sys.exit(main())
