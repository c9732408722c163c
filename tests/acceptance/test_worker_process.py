"""The worker as a process: backlog, crash, drain, and a start before anything is there."""

import asyncio

import pytest

from configcache import ClearConfigurationCache
from configcache.topology import COMMAND_QUEUE
from tests.locks import locked_row, someone_waits_for_a_lock
from tests.waiting import eventually

COUNT = 4_000


def clear(associate):
    return ClearConfigurationCache.for_associate("WebClient", "Web", associate)


async def filled(system, count):
    await system.fill([("WebClient", "Web", associate, "Contact") for associate in range(1, count + 1)])
    await system.publish(*[clear(associate) for associate in range(1, count + 1)])


async def ready(worker):
    await eventually(lambda: asyncio.to_thread(worker.is_ready))


async def all_gone(system):
    return not await system.rows()


async def test_a_backlog_from_before_the_start_is_applied_and_settled(system, start_worker):
    await filled(system, COUNT)
    worker = start_worker(system.settings)

    await eventually(lambda: all_gone(system))
    assert await asyncio.to_thread(worker.terminate) == 0

    assert await system.bench.depth(COMMAND_QUEUE) == 0
    assert await system.dead_letters() == []
    assert sum(event["commands"] for event in worker.events("batch.cleared")) == COUNT


async def test_a_worker_killed_in_the_middle_loses_nothing(system, start_worker):
    await filled(system, COUNT)

    async with locked_row(system, COUNT // 2):
        worker = start_worker(system.settings)
        await someone_waits_for_a_lock(system)
        worker.kill()
    left = len(await system.rows())
    worker = start_worker(system.settings)
    await eventually(lambda: all_gone(system))
    assert await asyncio.to_thread(worker.terminate) == 0

    assert 0 < left < COUNT
    assert await system.bench.depth(COMMAND_QUEUE) == 0
    assert await system.dead_letters() == []


async def queue_holds(system, count):
    return await system.bench.depth(COMMAND_QUEUE) == count


async def rows_below(system, count):
    return len(await system.rows()) < count


async def test_sigterm_under_load_drains_and_leaves_the_rest_to_the_next(system, start_worker):
    await filled(system, COUNT)
    worker = start_worker(system.settings, CONFIGCACHE_WORKER__BATCH="20", CONFIGCACHE_WORKER__PREFETCH="100")
    await eventually(lambda: rows_below(system, COUNT))

    assert await asyncio.to_thread(worker.terminate) == 0

    # What was committed is acknowledged, what was not is in the queue.
    rows = len(await system.rows())
    await eventually(lambda: queue_holds(system, rows))


async def test_sigterm_during_an_outage_of_the_database_ends_at_once(system, start_worker):
    worker = start_worker(system.settings)
    await ready(worker)
    await system.execute("ALTER TABLE configuration_cache RENAME TO away")
    await system.publish(clear(1))
    await eventually(lambda: worker.events("database.paused"))

    exit_code = await asyncio.to_thread(worker.terminate, timeout_s=5)

    assert exit_code == 0
    assert await system.bench.depth(COMMAND_QUEUE) == 1


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CONFIGCACHE_BROKER__URL", "http://example", "broker.url"),
        ("CONFIGCACHE_BROKER__URI", "amqp://localhost", "CONFIGCACHE_BROKER__URL"),
        ("CONFIGCACHE_WORKER__PREFETCH", "many", "worker.prefetch"),
    ],
)
async def test_wrong_settings_are_told_in_one_line_with_exit_code_2(
    system, start_worker, variable, value, words
):
    worker = start_worker(system.settings, **{variable: value})

    assert await asyncio.to_thread(worker.wait) == 2

    said = worker.log_path.read_text()
    assert words in said
    assert "Traceback" not in said
