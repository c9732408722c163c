"""Rows of the cache table: missing, forbidden, locked, refusing, slow."""

import asyncio
import contextlib
import itertools
import random

import asyncpg
import pytest
from yarl import URL

from configcache import ClearConfigurationCache
from configcache.wire import encode
from tests.chaos.load import APPLICATION, INSTANCE, command, ready
from tests.locks import locked_row, someone_waits_for_a_lock
from tests.waiting import eventually

FOR_ALL = ClearConfigurationCache.for_all(APPLICATION, INSTANCE)
REFUSE = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '{}'; END $$
"""
REFUSED_ROWS = (
    "CREATE TRIGGER refuse BEFORE DELETE ON configuration_cache FOR EACH ROW {} EXECUTE FUNCTION refuse()"
)
SLOW_ROWS = """
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); RETURN OLD; END $$;
CREATE TRIGGER dawdle BEFORE DELETE ON configuration_cache FOR EACH ROW
    WHEN (OLD.instance = 'Big' AND OLD.associate_id <= 20) EXECUTE FUNCTION dawdle();
"""


def said(worker, event, words=""):
    """Whether the worker logged *event* with *words* in its error."""
    return any(words in entry.get("error", "") for entry in worker.events(event))


@pytest.mark.in_suite
@pytest.mark.row(8, "cache table missing, then created")
async def test_without_its_table_a_worker_waits_for_it(load, system, start_worker):
    numbers = range(1, 2_001)
    worker = start_worker(system.settings)
    await ready(worker)
    await load.fill(numbers)
    await system.execute("ALTER TABLE configuration_cache RENAME TO away")
    other = start_worker(system.settings)

    await load.publish(numbers, poison_every=100)
    await eventually(lambda: said(worker, "database.paused", "42P01"))
    await eventually(lambda: said(other, "database.paused", "42P01"))
    await load.buried()
    await system.execute("ALTER TABLE away RENAME TO configuration_cache")

    await ready(other)
    await load.accounts_balance(worker, other)


@pytest.mark.in_suite
@pytest.mark.row(9, "right to delete revoked, then granted")
async def test_without_the_right_to_delete_a_worker_waits_for_it(load, system, start_worker):
    role = f"configcache_test_{random.randrange(10**9)}"
    await system.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret';"
        f"GRANT SELECT, UPDATE, DELETE ON configuration_cache TO {role}"
    )
    try:
        url = URL(system.settings.database.url).with_user(role).with_password("secret")
        numbers = range(1, 2_001)
        await load.fill(numbers)
        worker = start_worker(system.settings, CONFIGCACHE_DATABASE__URL=str(url))
        await ready(worker)

        await system.execute(f"REVOKE DELETE ON configuration_cache FROM {role}")
        await load.publish(numbers, poison_every=100)
        await eventually(lambda: said(worker, "database.paused", "42501"))
        await load.buried()
        assert await load.left() == set(numbers)
        await system.execute(f"GRANT DELETE ON configuration_cache TO {role}")

        await load.accounts_balance(worker)
    finally:
        await system.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.in_suite
@pytest.mark.row(10, "rows locked by another session past lock_timeout")
async def test_only_commands_whose_rows_are_locked_wait(load, system, start_worker, scale):
    numbers = range(1, scale(5_001, in_suite=501))
    locked = numbers[len(numbers) // 2]
    await load.fill(numbers)
    worker = start_worker(system.settings, CONFIGCACHE_DATABASE__LOCK_TIMEOUT_S="0.2")
    await ready(worker)

    async with locked_row(system, locked):
        await load.publish(numbers, poison_every=100)
        await eventually(lambda: nothing_left_but(load, {locked}), timeout_s=60)
        await load.buried()
        assert said(worker, "commands.set_aside", "55P03")

    await load.accounts_balance(worker)


async def nothing_left_but(load, numbers):
    return await load.left() == numbers


@pytest.mark.timeout(120)
@pytest.mark.row(
    11, "deadlocks: four workers, overlapping batches, a refiller, a session that locks backwards"
)
async def test_overlapping_workers_and_deadlocks_hold_up_nobody(load, system, start_worker, rng):
    numbers = range(1, 301)
    await load.fill(numbers)
    workers = [
        start_worker(
            system.settings, CONFIGCACHE_WORKER__BATCH=str(batch), CONFIGCACHE_WORKER__PREFETCH="200"
        )
        for batch in (200, 100, 50, 20)
    ]
    for worker in workers:
        await ready(worker)
    rival = await asyncpg.connect(system.settings.database.url)
    ends_s = asyncio.get_running_loop().time() + 20

    while asyncio.get_running_loop().time() < ends_s:
        for _ in range(10):
            await system.publish(*map(command, rng.sample(numbers, 150)), *[FOR_ALL] * 3)
            await load.fill(numbers)
        await lock_backwards(rival, system)
        await load.fill(numbers)
    while not any(said(worker, "database.paused", "40P01") for worker in workers):
        await load.fill(numbers)
        await lock_backwards(rival, system)
    await rival.close()
    await load.fill(numbers)
    await load.publish(numbers, poison_every=10)

    await load.accounts_balance(*workers)


async def lock_backwards(rival, system):
    """Lock the last row, let a worker that holds the others wait for it, then want the first: one has to give way."""
    lock = "SELECT FROM configuration_cache WHERE instance = $1 AND associate_id = $2 FOR UPDATE"
    with contextlib.suppress(asyncpg.DeadlockDetectedError):
        async with rival.transaction():
            if await rival.fetch(lock, INSTANCE, 300):
                await system.publish(FOR_ALL)
                await someone_waits_for_a_lock(system)
                await rival.execute(lock, INSTANCE, 1)


@pytest.mark.in_suite
@pytest.mark.row(23, "a trigger raises 53100, then XX000, then P0001 for every row")
async def test_a_trigger_that_refuses_everything_convicts_nobody(load, system, start_worker, scale):
    numbers = range(1, 1_001)
    await load.fill(numbers)
    worker = start_worker(system.settings)
    await ready(worker)
    await system.execute(REFUSE.format("53100") + ";" + REFUSED_ROWS.format(""))
    await load.publish(numbers, poison_every=100)

    for sqlstate in ("53100", "XX000", "P0001"):
        await system.execute(REFUSE.format(sqlstate))
        await eventually(lambda sqlstate=sqlstate: said(worker, "database.paused", sqlstate))
        await asyncio.sleep(scale(3, in_suite=0.3))
    await load.buried()
    assert await load.left() == set(numbers)
    await system.execute("DROP FUNCTION refuse CASCADE")

    await load.accounts_balance(worker)
    assert not worker.events("command.convicted")


@pytest.mark.in_suite
@pytest.mark.row(23, "a trigger raises P0001 for one associate")
async def test_a_command_that_the_database_refuses_is_dead_lettered_and_no_other(
    load, system, start_worker, scale
):
    numbers = range(1, scale(5_001, in_suite=1_001))
    await load.fill(numbers)
    await system.execute(REFUSE.format("P0001"))
    await system.execute(REFUSED_ROWS.format("WHEN (OLD.associate_id = 77)"))
    worker = start_worker(system.settings)
    await ready(worker)

    await load.publish(numbers, poison_every=100)
    # Contrast: only beside commands that go through is one convicted that never does.
    for number in itertools.count(10_001):
        await load.fill([number])
        await load.publish([number])
        if worker.events("command.convicted"):
            break

    await load.accounts_balance(worker, refused={77})
    refused = [letter for letter in await load.dead_letters() if letter.reason == "refused-by-database"]
    assert {letter.body for letter in refused} == {encode(command(77))}


@pytest.mark.timeout(180)
@pytest.mark.row(
    25, "300,000 rows of 8 KB among a thousand small commands, statement timeout shorter than the whole"
)
async def test_a_scope_too_large_for_one_statement_is_cleared_beside_the_others(
    load, system, start_worker, scale
):
    rows = scale(300_000, in_suite=30_000)
    numbers = range(1, 1_001)
    await load.fill(numbers)
    await system.execute(
        "INSERT INTO configuration_cache (application, instance, associate_id, item, xml)"
        f"SELECT '{APPLICATION}', 'Big', n % 1000 + 1, 'item ' || n, repeat('<configuration/>', 512)"
        f"FROM generate_series(1, {rows}) AS n;" + SLOW_ROWS
    )
    worker = start_worker(system.settings, CONFIGCACHE_DATABASE__STATEMENT_TIMEOUT_S="1")
    await ready(worker)

    await load.publish(numbers[:500], poison_every=100)
    await system.publish(ClearConfigurationCache.for_all(APPLICATION, "Big"))
    await load.publish(numbers[500:], poison_every=100)
    looking = await asyncpg.connect(system.settings.database.url)
    await eventually(
        lambda: looking.fetchval(
            "SELECT NOT EXISTS (SELECT FROM configuration_cache WHERE instance = 'Big')"
        ),
        timeout_s=120,
    )
    await looking.close()

    await load.accounts_balance(worker)
    assert worker.events("statement.too_slow")
