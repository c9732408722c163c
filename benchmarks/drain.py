"""How fast is a backlog drained, and what does it cost?"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Self

from benchmarks import processes
from benchmarks.arena import Arena, arena
from benchmarks.contenders import Contender
from benchmarks.programs import PATIENCE_S, ContenderFailed, Program, running, while_alive
from benchmarks.results import Drain
from benchmarks.workloads import FIRST_MARK, LAST_MARK, MARKS, Workload
from configcache_worker.local.servers import Servers

_FIRST_POLL_S = 0.005
_MEMORY_POLL_S = 0.25
_LAST_ACKS_S = 0.2


async def drain(
    servers: Servers,
    workload: Workload,
    contender: Contender,
    *,
    number: int = 1,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = PATIENCE_S,
) -> Drain:
    """
    Let *workers* processes of *contender* drain the backlog of *workload*, in the round *number*; *environment* goes over
    what they are told otherwise.

    The clock runs from the first row gone to the last, or from the first message to the last acknowledgement for whom
    deletes nothing: what it takes to start is not counted, and neither are messages done before the clock runs.

    Raises:
        ContenderFailed: It died, or left something undone or did too much.
    """
    bodies = workload.bodies()
    async with arena(servers, workload, contender) as place:
        await place.publish(bodies)
        await place.rest()
        if not contender.deletes:
            return await _time_itself(place, len(bodies), number, timeout_s)
        with contextlib.ExitStack() as stack:
            programs = [
                stack.enter_context(running(contender, place.broker_url, place.database_url, environment))
                for _ in range(workers)
            ]
            figures = await while_alive(
                programs, _observe(place, programs, len(bodies), number), timeout_s=timeout_s
            )
            # Not every contender drains when it is stopped, and the last acknowledgements follow the last commit.
            await asyncio.sleep(_LAST_ACKS_S)
            for program in programs:
                await program.stop()
        await place.check_outcome()
    if not figures.counted:
        raise ContenderFailed("all was done before anybody looked: it needs a larger backlog")
    return figures


async def _observe(place: Arena, programs: list[Program], messages: int, number: int) -> Drain:
    await place.gone(FIRST_MARK, poll_s=_FIRST_POLL_S)
    before, began = _Costs.of(programs), time.monotonic()
    already = await place.cleared()
    async with _watched(programs) as memory:
        await _done(place, several=len(programs) > 1)
        seconds, costs = time.monotonic() - began, _Costs.of(programs).since(before)
    figures = _figures(place, messages, number, seconds, costs, already=already)
    return dataclasses.replace(
        figures,
        workers=len(programs),
        peak_mb=max(memory) / 1e6,
        early_mb=max(memory[: math.ceil(len(memory) / 10)]) / 1e6,
    )


async def _done(place: Arena, *, several: bool) -> None:
    await place.gone(LAST_MARK)
    # One worker takes the backlog in its order; several end one after the other.
    while several and await place.rows() > place.workload.rows_left:
        await asyncio.sleep(_FIRST_POLL_S)
    if place.workload.poison:
        await place.buried()


async def _time_itself(place: Arena, messages: int, number: int, timeout_s: float) -> Drain:
    """Run a contender that takes *messages* messages, ends, and says how long it took."""
    environment = {"COUNT": str(messages)}
    before = _Costs.of([])
    with running(place.contender, place.broker_url, place.database_url, environment) as program:
        async with asyncio.timeout(timeout_s):
            await program.ended()
        said = program.said()
    try:
        seconds, cpu_s = map(float, said.split())
    except ValueError:
        raise ContenderFailed(f"{place.contender.title}: {said}") from None
    if await place.bench.depth(place.contender.queue):
        raise ContenderFailed(f"{place.contender.title}: not everything was acknowledged")
    costs = dataclasses.replace(_Costs.of([]).since(before), worker_s=cpu_s)
    return _figures(place, messages, number, seconds, costs)


@dataclass(frozen=True)
class _Costs:
    """Processor time, in seconds."""

    worker_s: float
    broker_s: float | None
    """None where the broker is not on this machine."""
    database_s: float

    @classmethod
    def of(cls, programs: list[Program]) -> Self:
        """What was used so far."""
        broker = processes.servers_named("beam.smp")
        return cls(
            sum(processes.cpu_s(program.pids()) for program in programs),
            processes.cpu_s(broker) if broker else None,
            processes.cpu_s(processes.servers_named("postgres")),
        )

    def since(self, before: Self) -> Self:
        """What was used since *before*."""
        broker_s = None
        if self.broker_s is not None and before.broker_s is not None:
            broker_s = self.broker_s - before.broker_s
        return type(self)(self.worker_s - before.worker_s, broker_s, self.database_s - before.database_s)


def _figures(
    place: Arena, messages: int, number: int, seconds: float, costs: _Costs, *, already: int = 0
) -> Drain:
    workload = place.workload
    counted = messages - already if workload.has_one_row_each else messages

    def ms_per_1000(used_s: float) -> float:
        return used_s * 1e6 / max(counted, 1)

    return Drain(
        round=number,
        contender=place.contender.name,
        workload=workload.name,
        title=workload.title,
        workers=1,
        messages=messages,
        counted=counted,
        rows=workload.rows + len(MARKS) - workload.rows_left - already if place.contender.deletes else 0,
        seconds=seconds,
        worker_cpu=ms_per_1000(costs.worker_s),
        broker_cpu=None if costs.broker_s is None else ms_per_1000(costs.broker_s),
        database_cpu=ms_per_1000(costs.database_s),
        peak_mb=None,
        early_mb=None,
    )


@contextlib.asynccontextmanager
async def _watched(programs: list[Program]) -> AsyncIterator[list[int]]:
    """Look at the memory of *programs* now and then; the list has the bytes of each look."""
    looks: list[int] = []

    async def look() -> None:
        while True:
            looks.append(sum(processes.memory_bytes(program.pids()) for program in programs))
            await asyncio.sleep(_MEMORY_POLL_S)

    watching = asyncio.create_task(look())
    try:
        yield looks
    finally:
        watching.cancel()
