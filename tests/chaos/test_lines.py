"""Rows of the line between worker and servers: cut, frozen, slow."""

import asyncio

import pytest

from tests.proxy import Proxy
from tests.waiting import eventually


@pytest.mark.in_suite
@pytest.mark.timeout(180)
@pytest.mark.row(14, "connection to the broker cut in the middle of a frame, 25 times")
async def test_cuts_in_the_middle_of_a_frame(load, system, start_worker, scale, rng):
    numbers = range(1, scale(20_000, in_suite=2_000) + 1)
    await load.fill(numbers)
    async with Proxy(system.settings.broker.url) as line:
        worker = start_worker(
            system.settings, CONFIGCACHE_BROKER__URL=line.url, CONFIGCACHE_WORKER__PREFETCH="500"
        )
        await eventually(lambda: asyncio.to_thread(worker.is_ready))

        async with load.flowing(numbers, poison_every=100):
            for _ in range(scale(25, in_suite=4)):
                await line.cut_after(rng.randrange(100, 60_000))

        await load.accounts_balance(worker)
