"""
The parts of the benchmark, and how large each is.

A part runs in rounds. A round has every contender, or every workload, once, and the next round begins with another one, so
that a machine that gets slower meanwhile is nobody's luck; ratios are taken within a round.

Fast contenders get more commands than slow ones, of the same backlog over the same table, so that each drain takes some
two seconds or more.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from benchmarks import workloads
from benchmarks.contenders import (
    BARE_ENDPOINT,
    CONTENDERS,
    DRAMATIQ,
    GATEWAY,
    ONE_AT_A_TIME,
    OURS,
    Contender,
)
from benchmarks.drain import drain
from benchmarks.gap import gap
from benchmarks.latency import latency
from benchmarks.load import keep_journal
from benchmarks.memory import while_stuck
from benchmarks.publishing import publishing
from benchmarks.results import (
    AT_100,
    AT_1000,
    HALF,
    SCRAPED,
    TIMES_DRAMATIQ,
    UNWATCHED,
    Drain,
    Gap,
    Latency,
    Memory,
    Publishing,
    Serving,
    Telemetry,
)
from benchmarks.serving import serving
from benchmarks.telemetry import telemetry
from configcache_worker.local.servers import Servers

_T = TypeVar("_T")
Say = Callable[[object], None]


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int
    commands: Mapping[str, int]
    """How many each contender drains."""
    workload: int
    """Messages of an ordinary workload."""
    latency_s: float
    latency_rounds: int
    gap_rounds: int
    gap_s: float
    """How long the load goes on after the cut."""
    telemetry_rounds: int
    telemetry: int
    """Commands drained while scraped, or not."""
    stuck_s: float
    """How long the table is locked: more than one lock timeout, and the retries after it."""
    published: int
    """Commands published one by one; ten times as many with a window."""
    serving_s: float
    backlogs: Sequence[int]
    workers: Sequence[int]


FULL: Final = Sizes(
    rounds=3,
    commands={
        "configcache": 200_000,
        "limit": 300_000,
        "batched": 40_000,
        "dramatiq": 12_000,
        "one-at-a-time": 5_000,
        "faststream": 3_000,
    },
    workload=150_000,
    latency_s=8.0,
    latency_rounds=3,
    gap_rounds=2,
    gap_s=7.0,
    telemetry_rounds=5,
    telemetry=60_000,
    stuck_s=12.0,
    published=2_000,
    serving_s=4.0,
    backlogs=(10_000, 100_000, 1_000_000),
    workers=(1, 2, 3, 4),
)
QUICK: Final = Sizes(
    rounds=1,
    commands={
        "configcache": 50_000,
        "limit": 50_000,
        "batched": 10_000,
        "dramatiq": 2_000,
        "one-at-a-time": 1_000,
        "faststream": 1_000,
    },
    workload=20_000,
    latency_s=1.5,
    latency_rounds=1,
    gap_rounds=1,
    gap_s=4.0,
    telemetry_rounds=1,
    telemetry=40_000,
    stuck_s=6.0,
    published=300,
    serving_s=1.0,
    backlogs=(60_000,),
    workers=(2,),
)

_WINDOW: Final = 500


async def contenders(servers: Servers, sizes: Sizes, say: Say) -> list[Drain]:
    """Everybody over the same backlog."""
    table_rows = max(sizes.commands.values())
    found = []
    for number, contender in rounds(sizes.rounds, CONTENDERS):
        workload = workloads.distinct(sizes.commands[contender.name], table_rows=table_rows)
        found.append(await drain(servers, workload, contender, number=number))
        say(_line(found[-1]))
    return found


async def our_workloads(servers: Servers, sizes: Sizes, say: Say) -> list[Drain]:
    """Us, over backlogs of all kinds."""
    count = sizes.workload
    these = [
        workloads.distinct(count),
        workloads.duplicates(count, 50),
        workloads.duplicates(count, 99),
        workloads.mixed(count),
        workloads.scopes(count),
        workloads.poisoned(count),
        workloads.large_rows(count // 5, kilobytes=8),
        workloads.large_rows(count // 25, kilobytes=64),
        workloads.large_scopes(count // 3_000),
    ]
    found = []
    for number, workload in rounds(sizes.rounds, these):
        found.append(await drain(servers, workload, OURS, number=number))
        say(_line(found[-1]))
    return found


async def latencies(servers: Servers, sizes: Sizes, say: Say, drains: Sequence[Drain]) -> list[Latency]:
    """Publish to row gone, at rates of which two come from the maxima in *drains*."""
    cases = [(ONE_AT_A_TIME, AT_100, 100), (OURS, AT_100, 100), (OURS, AT_1000, 1_000)]
    if ours := _maximum(drains, OURS):
        cases.append((OURS, HALF, ours // 2))
    if theirs := _maximum(drains, DRAMATIQ):
        cases.append((OURS, TIMES_DRAMATIQ, theirs * 3))
    await keep_journal(servers)
    found = []
    for number, (contender, load, per_s) in rounds(sizes.latency_rounds, cases):
        found.append(
            await latency(servers, contender, load=load, per_s=per_s, seconds=sizes.latency_s, number=number)
        )
        say(_fields(found[-1]))
    return found


async def gaps(servers: Servers, sizes: Sizes, say: Say) -> list[Gap]:
    """After a cut connection."""
    await keep_journal(servers)
    found = []
    for number, contender in rounds(sizes.gap_rounds, (OURS, ONE_AT_A_TIME)):
        found.append(await gap(servers, contender, after_s=sizes.gap_s, number=number))
        say(_fields(found[-1]))
    return found


async def publishers(servers: Servers, sizes: Sizes, say: Say) -> list[Publishing]:
    """With a window and without."""
    found = []
    for number, window in rounds(sizes.rounds, (1, _WINDOW)):
        count = sizes.published * (1 if window == 1 else 10)
        found.append(await publishing(servers, window=window, count=count, number=number))
        say(_fields(found[-1]))
    return found


async def gateways(servers: Servers, sizes: Sizes, say: Say) -> list[Serving]:
    """The gateway, and the least that an endpoint can do."""
    found = []
    for number, contender in rounds(sizes.rounds, (GATEWAY, BARE_ENDPOINT)):
        found.append(await serving(servers, contender, seconds=sizes.serving_s, number=number))
        say(_fields(found[-1]))
    return found


async def watched(servers: Servers, sizes: Sizes, say: Say) -> list[Telemetry]:
    """Scraped and not."""
    found = []
    for number, told in rounds(sizes.telemetry_rounds, (UNWATCHED, SCRAPED)):
        found.append(await telemetry(servers, told=told, count=sizes.telemetry, number=number))
        say(_fields(found[-1]))
    return found


async def memory(servers: Servers, sizes: Sizes, say: Say) -> list[Memory]:
    """With a stuck database."""
    found = await while_stuck(servers, sizes.workload // 2, stuck_s=sizes.stuck_s)
    say(_fields(found))
    return [found]


async def scale(servers: Servers, sizes: Sizes, say: Say) -> list[Drain]:
    """Backlogs of several sizes, and several workers."""
    found = []
    cases = [(count, 1) for count in sizes.backlogs]
    cases += [(sizes.workload, workers) for workers in sizes.workers]
    for count, workers in cases:
        found.append(await drain(servers, workloads.distinct(count), OURS, workers=workers))
        say(_line(found[-1]))
    return found


def rounds(count: int, these: Sequence[_T]) -> Iterator[tuple[int, _T]]:
    """Each of *these* in every round; rounds count from 1, and each begins with another one."""
    for number in range(1, count + 1):
        start = (number - 1) % len(these)
        for each in (*these[start:], *these[:start]):
            yield number, each


def _maximum(drains: Sequence[Drain], contender: Contender) -> int:
    """The median rate of *contender*, 0 if it was not measured."""
    rates = [each.per_s for each in drains if each.contender == contender.name]
    return int(statistics.median(rates)) if rates else 0


def _line(drained: Drain) -> str:
    broker = "   -" if drained.broker_cpu is None else f"{drained.broker_cpu:6.1f}"
    return (
        f"round {drained.round}  {drained.contender:<14} {drained.workload:<16} x{drained.workers}"
        f" {drained.per_s:>9,.0f}/s in {drained.seconds:5.1f} s;"
        f" ms per 1,000: worker {drained.worker_cpu:6.1f}, broker {broker}, database {drained.database_cpu:6.1f}"
    )


def _fields(record: Latency | Gap | Publishing | Serving | Memory | Telemetry) -> str:
    values = dataclasses.asdict(record).items()
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values
    )
