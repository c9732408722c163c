"""How long does nothing happen when a worker's connection is cut under load?"""

from __future__ import annotations

import asyncio
import itertools
import time

from benchmarks.arena import arena
from benchmarks.contenders import Contender
from benchmarks.load import Journal, publish_steadily
from benchmarks.programs import running, while_alive
from benchmarks.results import Gap
from benchmarks.workloads import FIRST_MARK, LAST_MARK, distinct
from configcache_worker.local.servers import Servers
from tests.proxy import Proxy

_PER_S = 500


async def gap(
    servers: Servers, contender: Contender, *, before_s: float = 2.0, after_s: float, number: int = 1
) -> Gap:
    """
    Cut the worker's connection to the broker after *before_s* seconds of an even load, which goes on for *after_s* more.

    The gap is the longest time without a commit from the cut on, so that work already begun does not hide it. The servers
    must keep a journal.

    Raises:
        ContenderFailed: It died, or a command was lost.
    """
    workload = distinct(int(_PER_S * (before_s + after_s)))
    async with arena(servers, workload, contender) as place, Proxy(place.broker_url) as proxy:
        others = list(place.messages(workload.bodies()[1:]))
        with running(contender, proxy.url, place.database_url) as program:
            await place.publish([FIRST_MARK.body])
            await while_alive([program], place.gone(FIRST_MARK))
            async with Journal(place.database) as journal:
                publishing = asyncio.create_task(
                    asyncio.to_thread(publish_steadily, place.broker_url, others, _PER_S)
                )
                await asyncio.sleep(before_s)
                cut_s = time.time()
                proxy.cut()
                await publishing
                await while_alive([program], place.gone(LAST_MARK))
                commits = sorted(set((await journal.deletions()).values()))
            await program.stop()
        await place.check_outcome()
    moments = [cut_s, *(commit for commit in commits if commit > cut_s)]
    return Gap(number, contender.name, max(after - before for before, after in itertools.pairwise(moments)))
