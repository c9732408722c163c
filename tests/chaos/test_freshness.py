"""Rows of the cache's filling side: what was cleared is never served again."""

import asyncio
import contextlib
import json
import logging

import asyncpg
import pytest

from configcache import ClearConfigurationCache
from tests.freshness.crowd import CREATE_BUILDS, KEY
from tests.freshness.model import search
from tests.freshness.mutations import Mutation
from tests.freshness.stress import program, stress
from tests.waiting import eventually

QUICKLY_FOUND = {Mutation.NO_FENCE, Mutation.WAITER_ACCEPTS_REFUSED}

log = logging.getLogger(__name__)

SEARCHES = [
    {"readers": (0, 0, 0), "reads": 2, "clears": 2},
    {"readers": (0, 0, 1), "reads": 1, "clears": 2},
    {"readers": (0, 1), "reads": 2, "clears": 2},
    {"readers": (0, 0, 0), "reads": 1, "clears": 3},
]


@pytest.mark.timeout(300)
@pytest.mark.row(30, "every order of steps of up to three readers, with two keys or three clears, searched")
@pytest.mark.parametrize("sizes", SEARCHES, ids=str)
def test_in_no_order_of_many_steps_is_anything_served_that_was_cleared(sizes):
    found = search(**sizes)

    assert found.trace is None, "\n".join(found.trace)
    assert found.states > 100_000


@pytest.mark.in_suite
@pytest.mark.timeout(900)
@pytest.mark.row(31, "8 readers race 2 writers, workers killed now and then: 100,000 reads, none stale")
async def test_racing_readers_get_nothing_that_was_cleared(
    system, start_worker, scale, rng, tmp_path, pytestconfig
):
    report = await stress(
        system.settings,
        start_worker,
        folder=tmp_path,
        reads=scale(pytestconfig.getoption("--reads"), in_suite=3_000),
        most_s=scale(850.0, in_suite=100.0),
        rng=rng,
    )

    log.info(report)
    assert report.stale == []
    assert report.kills >= scale(3, in_suite=0)
    assert report.built > report.reads / 100


@pytest.mark.timeout(120)
@pytest.mark.row(32, "a rule of the cache's protocol broken: stale reads are found within seconds")
@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(
            mutation, marks=[pytest.mark.in_suite] if mutation in QUICKLY_FOUND else [], id=mutation.name
        )
        for mutation in Mutation
    ],
)
async def test_racing_readers_notice_a_broken_rule(system, start_worker, rng, tmp_path, mutation):
    report = await stress(
        system.settings,
        start_worker,
        folder=tmp_path,
        reads=10_000_000,
        most_s=100.0,
        rng=rng,
        mutation=mutation,
    )

    log.info(report)
    assert report.stale


@pytest.mark.in_suite
@pytest.mark.timeout(120)
@pytest.mark.row(33, "200 readers in 4 processes miss one cleared key at once: one build")
async def test_of_a_crowd_that_misses_a_cleared_key_one_builds(system, start_worker):
    await system.fill([KEY])
    await system.execute(CREATE_BUILDS)
    start_worker(system.settings)
    await system.publish(ClearConfigurationCache.for_associate(*KEY[:3]))
    await eventually(lambda: nothing_is_cached(system))

    got = await crowd(system.settings.database.url, processes=4, readers=50)

    assert got == ["<built/>"] * 200
    assert await fetch(system, "SELECT count(*) FROM build") == 1


async def crowd(url, *, processes, readers):
    """Let so many readers in each of so many processes read one key at once: what they got."""
    options = {"url": url, "readers": readers}
    async with contextlib.AsyncExitStack() as stack:
        some = [
            await stack.enter_async_context(program("tests.freshness.crowd", options))
            for _ in range(processes)
        ]
        for process in some:
            assert await process.stdout.readline() == b"ready\n"
        outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in some))
    return [xml for output, _ in outputs for xml in json.loads(output)]


async def nothing_is_cached(system):
    return not await system.rows()


async def fetch(system, query):
    connection = await asyncpg.connect(system.settings.database.url)
    value = await connection.fetchval(query)
    await connection.close()
    return value
