"""How much memory does our worker take while the database does not let it work?"""

from __future__ import annotations

import asyncio

from benchmarks import processes
from benchmarks.arena import arena
from benchmarks.contenders import OURS
from benchmarks.programs import running, while_alive
from benchmarks.results import STUCK, Memory
from benchmarks.workloads import FIRST_MARK, LAST_MARK, distinct
from configcache.topology import COMMAND_QUEUE
from configcache_worker.local.servers import Servers
from configcache_worker.settings import WorkerSettings

_POLL_S = 0.05
_TAKEN_S = 60.0


async def while_stuck(servers: Servers, count: int, *, stuck_s: float) -> Memory:
    """The peak after the table was locked for *stuck_s* seconds, and *count* commands came in; then all must be cleared."""
    workload = distinct(count)
    first, *others = workload.bodies()
    prefetch = WorkerSettings().prefetch
    async with arena(servers, workload, OURS) as place:
        with running(OURS, place.broker_url, place.database_url) as program:
            await place.publish([first])
            await while_alive([program], place.gone(FIRST_MARK))
            async with place.database.transaction():
                await place.database.execute("LOCK TABLE configuration_cache IN ACCESS EXCLUSIVE MODE")
                await place.publish(others)
                async with asyncio.timeout(_TAKEN_S):
                    while await place.bench.depth(COMMAND_QUEUE) > max(0, len(others) - prefetch):
                        await asyncio.sleep(_POLL_S)
                await asyncio.sleep(stuck_s)
                program.check()
                stuck = Memory(STUCK, processes.peak_resident_bytes(program.pid) / 1e6)
            await while_alive([program], place.gone(LAST_MARK))
            await program.stop()
        await place.check_outcome()
    return stuck
