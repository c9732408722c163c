"""
Measure the worker beside its peers, on private servers.

    python -m benchmarks [--quick] [--only PART ...] [--out FOLDER]

Writes results.json and charts to FOLDER, and prints every table. With --only, the results of the other parts stay as they
are in FOLDER if they were measured under the same conditions. Ends with 1 if a run left something undone: then there are no figures.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import platform
import sys
import time
from pathlib import Path

import asyncpg

from benchmarks import report, suite
from benchmarks.amqp import Channel
from benchmarks.arena import start_servers
from benchmarks.programs import ContenderFailed
from benchmarks.results import Conditions, Results
from configcache_worker.local.servers import Servers

PARTS = (
    "contenders",
    "workloads",
    "latencies",
    "gaps",
    "publishing",
    "serving",
    "memory",
    "scale",
    "telemetry",
)


async def measure(
    servers: Servers, results: Results, *, sizes: suite.Sizes, only: list[str], out: Path
) -> Results:
    """Run the parts *only*, in their order, and put what they found in place of what *results* has; write as they go."""
    runs = {
        "contenders": lambda _: suite.contenders(servers, sizes, say),
        "workloads": lambda _: suite.our_workloads(servers, sizes, say),
        "scale": lambda _: suite.scale(servers, sizes, say),
        "telemetry": lambda _: suite.watched(servers, sizes, say),
        "publishing": lambda _: suite.publishers(servers, sizes, say),
        "serving": lambda _: suite.gateways(servers, sizes, say),
        "memory": lambda _: suite.memory(servers, sizes, say),
        # Last, since the database server is set up otherwise for these.
        "latencies": lambda so_far: suite.latencies(servers, sizes, say, so_far.contenders),
        "gaps": lambda _: suite.gaps(servers, sizes, say),
    }
    for part, run in runs.items():
        if part in only:
            say(f"--- {part}")
            results = dataclasses.replace(results, **{part: await run(results)})
            report.write(results, out)
    return results


def say(what: object) -> None:
    """Print a line at once."""
    print(what, flush=True)


async def conditions(servers: Servers, *, quick: bool) -> Conditions:
    """Ask the servers for their versions."""
    with servers.vhost() as url, Channel(url) as channel:
        broker = channel.server_properties.get("version", "?")
    database = await asyncpg.connect(servers.postgres.url)
    version = database.get_server_version()
    await database.close()
    return Conditions(
        processors=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        rabbitmq=str(broker),
        postgresql=f"{version.major}.{version.minor}",
        quick=quick,
    )


async def main(*, quick: bool, only: list[str], out: Path) -> None:
    """Measure, write, print."""
    began = time.monotonic()
    with start_servers() as servers:
        await asyncio.to_thread(servers.start)
        where = await conditions(servers, quick=quick)
        is_part = only != list(PARTS) and (out / report.RESULTS).exists()
        before = report.read(out) if is_part else Results(where)
        if before.conditions != where:
            before = Results(where)
        sizes = suite.QUICK if quick else suite.FULL
        results = await measure(servers, before, sizes=sizes, only=only, out=out)
    for name, table in report.TABLES.items():
        say(f"\n{name}\n\n{table(results)}")
    say(f"{time.monotonic() - began:.0f} s; results and charts are in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="see in under two minutes that everything works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="run these parts alone")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="default: build/bench")
    try:
        asyncio.run(main(**vars(parser.parse_args())))
    except ContenderFailed as failure:
        sys.exit(f"no figures: {failure}")
