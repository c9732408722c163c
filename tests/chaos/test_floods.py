"""Rows of too much in the queue."""

import asyncio
import itertools

import pytest

from configcache.topology import DEAD_LETTER_QUEUE
from configcache.wire import encode
from configcache_worker.local.servers import Servers
from tests.chaos.flood import BASE_BYTES, PLAIN_PROPERTIES, flood
from tests.chaos.load import command, delete_queue, poison, ready
from tests.waiting import eventually


@pytest.fixture(scope="module")
def servers():
    """A pair of these rows' own: a broker that was flooded blocks publishers for as long as it tidies its memory."""
    with Servers.from_environment() as servers:
        yield servers


@pytest.mark.timeout(240)
@pytest.mark.row(26, "backlog of 1,000,000 commands: memory bounded")
async def test_a_backlog_of_a_million_commands_takes_no_more_memory_than_a_small_one(
    load, system, start_worker
):
    bodies = [encode(command(number)) for number in range(1, 5_001)]
    await load.fill(range(1, 5_001))
    backlog = itertools.islice(itertools.cycle(bodies), 1_000_000)

    await asyncio.to_thread(flood, system.settings.broker.url, ((body, PLAIN_PROPERTIES) for body in backlog))
    worker = start_worker(system.settings)
    await ready(worker)
    await eventually(lambda: is_drained(load), timeout_s=120)

    assert worker.peak_bytes() < BASE_BYTES
    assert await asyncio.to_thread(worker.terminate) == 0
    assert sum(event["commands"] for event in worker.events("batch.cleared")) == 1_000_000
    assert await load.left() == set()
    assert await load.depth() == 0


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("size", "number"), [(65_536, 2_000), (5_000_000, 30)], ids=["malformed, 64 KiB", "malformed, 5 MB"]
)
@pytest.mark.row(26, "backlog of large malformed bodies: memory bounded")
async def test_a_backlog_of_large_poison_is_buried_within_bounds(load, system, start_worker, size, number):
    bodies = [poison(count).ljust(size) for count in range(number)]
    await load.fill(range(1, 1_001))

    await asyncio.to_thread(flood, system.settings.broker.url, [(body, PLAIN_PROPERTIES) for body in bodies])
    await load.publish(range(1, 1_001))
    worker = start_worker(system.settings)
    await load.applied()
    await eventually(lambda: holds(load, number), timeout_s=120)

    assert worker.peak_bytes() < BASE_BYTES + system.settings.worker.max_held_bytes
    assert await asyncio.to_thread(worker.terminate) == 0
    assert await load.depth() == 0


@pytest.mark.timeout(240)
@pytest.mark.row(26, "dead letters unreachable while 64 KiB poison keeps coming: memory bounded")
async def test_poison_that_cannot_be_buried_takes_bounded_memory_and_is_buried_later(
    load, system, start_worker
):
    bodies = [poison(count).ljust(65_536) for count in range(2_000)]
    await load.fill(range(1, 1_001))
    worker = start_worker(system.settings, CONFIGCACHE_BROKER__DECLARE="false")
    await ready(worker)
    await delete_queue(system.settings.broker.url, DEAD_LETTER_QUEUE)

    await asyncio.to_thread(flood, system.settings.broker.url, [(body, PLAIN_PROPERTIES) for body in bodies])
    await eventually(lambda: is_overfull(worker), timeout_s=60)
    await load.publish(range(1, 1_001))
    await load.declare()
    await load.applied()
    await eventually(lambda: holds(load, len(bodies)), timeout_s=120)

    assert worker.peak_bytes() < BASE_BYTES + system.settings.worker.max_held_bytes
    assert await asyncio.to_thread(worker.terminate) == 0
    assert await load.depth() == 0


async def is_drained(load):
    return await load.depth() == 0


async def holds(load, letters):
    return await load.depth(DEAD_LETTER_QUEUE) >= letters


async def is_overfull(worker):
    reasons = (await asyncio.to_thread(worker.readiness) or {}).get("reasons", {})
    return "dead-letters-unavailable" in reasons
