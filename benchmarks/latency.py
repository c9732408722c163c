"""How soon after its publish is a command's row gone, at a steady rate?"""

from __future__ import annotations

import asyncio

from benchmarks.arena import Arena, arena
from benchmarks.contenders import Contender
from benchmarks.load import Journal, Sent, publish_steadily
from benchmarks.programs import running, while_alive
from benchmarks.results import Latency
from benchmarks.stats import percentile
from benchmarks.workloads import FIRST_MARK, LAST_MARK, associates, distinct, for_associate
from configcache_worker.local.servers import Servers

_WARM_UP_S = 1.0


async def latency(
    servers: Servers, contender: Contender, *, load: str, per_s: int, seconds: float, number: int = 1
) -> Latency:
    """
    Publish distinct commands for *seconds* at an even rate to an idle worker, in the round *number*.

    A first second, at the same rate, warms everything up and does not count. The servers must keep a journal.

    Raises:
        ContenderFailed: It died, or left something undone.
    """
    warm_up = int(per_s * _WARM_UP_S)
    workload = distinct(warm_up + int(per_s * seconds))
    async with arena(servers, workload, contender) as place:
        with running(contender, place.broker_url, place.database_url) as program:
            await place.publish([FIRST_MARK.body])
            await while_alive([program], place.gone(FIRST_MARK))
            await place.rest()
            async with Journal(place.database) as journal:
                order = associates(workload.rows)
                sent = await _publish(place, order, per_s)
                await while_alive([program], place.gone(LAST_MARK))
                deletions = await journal.deletions()
            await program.stop()
        await place.check_outcome()
    waits_ms = [(deletions[associate] - due) * 1000 for associate, due in zip(order, sent.due, strict=False)][
        warm_up:
    ]
    late_ms = [(written - due) * 1000 for written, due in zip(sent.written, sent.due, strict=True)][warm_up:]
    return Latency(
        round=number,
        contender=contender.name,
        load=load,
        per_s=per_s,
        commands=len(waits_ms),
        p50_ms=percentile(waits_ms, 50),
        p99_ms=percentile(waits_ms, 99),
        max_ms=max(waits_ms),
        late_p99_ms=percentile(late_ms, 99),
    )


async def _publish(place: Arena, order: list[int], per_s: int) -> Sent:
    """Publish the commands for the associates in *order* at an even rate, and the mark that ends them."""
    messages = list(place.messages([*map(for_associate, order), LAST_MARK.body]))
    return await asyncio.to_thread(publish_steadily, place.broker_url, messages, per_s)
