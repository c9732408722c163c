"""
How fast is a backlog drained? The worker beside the obvious one, over the same backlog, in interleaved rounds.

    .venv/bin/python benchmarks/drain.py [COMMANDS] [ROUNDS]

Private servers on this machine; broker, database and worker share its processors. A round fills the cache with one row
for each command, publishes the backlog, starts a worker process, and measures from the first row that is gone to the
last. Afterwards cache and queue must be empty and nothing dead-lettered, or the figure does not count.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import asyncpg

from configcache import ClearConfigurationCache
from configcache.topology import COMMAND_QUEUE
from configcache_worker.local.servers import Servers
from configcache_worker.testing import configuration_cache

OURS, OBVIOUS = "configcache worker", "one at a time"
POLL_S = 0.005
TIMEOUT_S = 300.0


class Figures(NamedTuple):
    """Of one drain."""

    per_s: float
    cpu_ms_per_1000: float


async def drain(servers: Servers, name: str, count: int) -> Figures:
    """Let the worker called *name* drain *count* commands."""
    async with configuration_cache(servers=servers, start_worker=False) as system:
        numbers = range(1, count + 1)
        await system.fill([("WebClient", "Web", number, "Contact") for number in numbers])
        await system.publish(
            *[ClearConfigurationCache.for_associate("WebClient", "Web", number) for number in numbers]
        )
        database = await asyncpg.connect(system.settings.database.url)
        process = start(name, system.settings.broker.url, system.settings.database.url)
        try:
            await gone(database, 1)
            began = time.monotonic()
            await gone(database, count)
            seconds = time.monotonic() - began
            cpu_s = cpu_seconds(process.pid)
        finally:
            process.terminate()
            process.wait()
            await database.close()
        if await system.rows() or await system.bench.depth(COMMAND_QUEUE) or await system.dead_letters():
            raise SystemExit(f"{name}: not everything was cleared and settled")
        return Figures(count / seconds, cpu_s * 1_000_000 / count)


def start(name: str, broker_url: str, database_url: str) -> subprocess.Popen[bytes]:
    """Start the worker called *name* in a process of its own."""
    if name == OURS:
        command = [sys.executable, "-m", "configcache_worker", "worker"]
    else:
        command = [
            sys.executable,
            str(Path(__file__).with_name("one_at_a_time.py")),
            broker_url,
            database_url,
        ]
    settings = {
        "CONFIGCACHE_BROKER__URL": broker_url,
        "CONFIGCACHE_DATABASE__URL": database_url,
        "CONFIGCACHE_TELEMETRY__PORT": "0",
    }
    return subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.DEVNULL)


async def gone(database: asyncpg.Connection, associate: int) -> None:
    """Wait until the row of *associate* is gone. The backlog is drained in order."""
    query = (
        "SELECT EXISTS (SELECT FROM configuration_cache"
        " WHERE application = 'WebClient' AND instance = 'Web' AND associate_id = $1)"
    )
    async with asyncio.timeout(TIMEOUT_S):
        while await database.fetchval(query, associate):
            await asyncio.sleep(POLL_S)


def cpu_seconds(pid: int) -> float:
    """Processor time of process *pid* so far, its start included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def main(count: int, rounds: int) -> None:
    """Run the rounds and print the medians."""
    found: dict[str, list[Figures]] = {OURS: [], OBVIOUS: []}
    with Servers() as servers:
        for number in range(rounds):
            for name, figures in found.items():
                figures.append(await drain(servers, name, count))
                print(f"round {number + 1}  {name:<20}{figures[-1].per_s:>10.0f} commands/s", flush=True)
    print(f"\n{count} commands, medians of {rounds} (least to most)")
    for name, figures in found.items():
        rates = [each.per_s for each in figures]
        cpu = statistics.median(each.cpu_ms_per_1000 for each in figures)
        print(
            f"{name:<20}{statistics.median(rates):>10.0f} commands/s ({min(rates):.0f} to {max(rates):.0f})"
            f"{cpu:>8.1f} ms CPU per 1,000"
        )
    ratio = statistics.median(
        ours.per_s / obvious.per_s for ours, obvious in zip(*found.values(), strict=True)
    )
    print(f"ratio, median of the rounds: {ratio:.1f}")


if __name__ == "__main__":
    asyncio.run(main(*(int(argument) for argument in [*sys.argv[1:], *["50000", "3"][len(sys.argv) - 1 :]])))
