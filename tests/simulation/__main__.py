"""
Run many schedules, or print one: ``python -m tests.simulation --schedules 20000``, ``--seed 4711``.

A schedule that breaks a promise is printed whole, with the log lines of its workers, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import simulate

_SLICE = 250


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=2_000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="run this one alone, and print its history")
    parser.add_argument(
        "--until-broken", action="store_true", help="end at the first that breaks a promise, in one line"
    )
    options = parser.parse_args()
    if options.seed is not None:
        return show(options.seed)
    if options.until_broken:
        return show_first_failing(options.first, options.first + options.schedules)
    started_s = time.monotonic()
    failing = find_failing(options.first, options.first + options.schedules)
    took_s = time.monotonic() - started_s
    print(
        f"{options.schedules} schedules from seed {options.first} in {took_s:.0f} s: {len(failing)} broke a promise"
    )
    if not failing:
        return 0
    print(f"seeds {' '.join(map(str, failing[:20]))}; the first one:\n")
    return show(failing[0])


def show(seed: int) -> int:
    """Print the schedule of *seed*."""
    outcome = simulate(seed, with_logs=True)
    print(outcome)
    return 1 if outcome.violation else 0


def show_first_failing(first: int, end: int) -> int:
    """Run until a promise is broken, and print which and when."""
    for seed in range(first, end):
        violation = simulate(seed).violation
        if violation:
            print(f"seed {seed}: {violation[:100]}")
            return 1
    return 0


def find_failing(first: int, end: int) -> list[int]:
    """The seeds from *first* to below *end* that break a promise, found on all processors."""
    starts = range(first, end, _SLICE)
    ends = [min(start + _SLICE, end) for start in starts]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return [seed for failing in pool.map(_failing, starts, ends) for seed in failing]


def _failing(first: int, end: int) -> list[int]:
    return [seed for seed in range(first, end) if simulate(seed).violation]


if __name__ == "__main__":
    sys.exit(main())
