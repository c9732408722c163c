"""Rows of the database server: stopped, killed, frozen, demoted, full."""

import asyncio
import contextlib

import asyncpg
import pytest

from configcache_worker.local.postgres import PostgreSQL
from configcache_worker.postgres.migrations import migrate
from configcache_worker.settings import BrokerSettings, DatabaseSettings, Settings
from tests.chaos.load import Load, ready
from tests.conftest import available
from tests.locks import locked_row, someone_waits_for_a_lock
from tests.proxy import Proxy
from tests.waiting import eventually

OF_THE_WORKER = "FROM pg_stat_activity WHERE application_name = 'configcache worker'"


def paused(worker, words=""):
    """Whether the worker has paused, saying *words*."""
    return any(words in event["error"] for event in worker.events("database.paused"))


@pytest.mark.in_suite
@pytest.mark.row(3, "PostgreSQL stopped for 15 s, then started")
async def test_a_stopped_database_holds_up_commands_and_not_poison(
    load, system, start_worker, postgres, scale
):
    down_s = scale(15, in_suite=0.5)
    await load.fill(range(1, 4_001))
    worker = start_worker(system.settings)
    await ready(worker)
    await load.publish(range(1, 1_001))
    await load.begun()

    async with asyncio.TaskGroup() as tasks:
        await asyncio.to_thread(postgres.stop)
        tasks.create_task(load.publish(range(1_001, 4_001), poison_every=100))
        tasks.create_task(asyncio.sleep(down_s))
        await eventually(lambda: paused(worker))
        await eventually(lambda: len(load.poison) == 30, timeout_s=60)
        await load.buried()
        assert "database" in (await asyncio.to_thread(worker.readiness))["reasons"]
    await asyncio.to_thread(postgres.start)

    await load.accounts_balance(worker)


@pytest.mark.in_suite
@pytest.mark.row(4, "PostgreSQL killed (-9) in the middle of a batch")
async def test_a_database_killed_in_the_middle_of_a_batch_is_asked_again(
    load, system, start_worker, postgres, scale
):
    batches = [range(first, first + 1_000) for first in range(1, scale(5_001, in_suite=1_001), 1_000)]
    worker = start_worker(system.settings)
    await ready(worker)

    for numbers in batches:
        await load.fill(numbers)
        # The last is the driver's for a COMMIT on a connection whose end it has seen and not yet told.
        with contextlib.suppress(
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError
        ):
            async with locked_row(system, numbers[500]):
                await load.publish(numbers, poison_every=100)
                await someone_waits_for_a_lock(system)
                await asyncio.to_thread(postgres.kill)
        pauses = len(worker.events("database.paused"))
        await eventually(lambda pauses=pauses: len(worker.events("database.paused")) > pauses)
        await asyncio.to_thread(postgres.start)
        await load.applied()

    await load.accounts_balance(worker)


@pytest.mark.row(5, "PostgreSQL frozen for longer than the statement timeout")
async def test_a_frozen_database_is_left_and_found_again(load, system, start_worker, rng):
    await load.fill(range(1, 3_001))
    async with Proxy(system.settings.database.url) as line:
        worker = start_worker(
            system.settings,
            CONFIGCACHE_DATABASE__URL=line.url,
            CONFIGCACHE_DATABASE__STATEMENT_TIMEOUT_S="1",
            CONFIGCACHE_DATABASE__CONNECT_TIMEOUT_S="1",
        )
        await ready(worker)
        for numbers in (range(1, 1_001), range(1_001, 2_001), range(2_001, 3_001)):
            connections = line.connections

            line.freeze()
            await load.publish(numbers, poison_every=100)
            await eventually(lambda connections=connections: line.connections > connections, timeout_s=30)
            await load.buried()
            line.thaw()

            await load.applied()
        assert worker.events("statement.too_slow") or paused(worker)
        await load.accounts_balance(worker)


@pytest.fixture
async def replicated(servers, vhost):
    """Primary, synchronous standby, and settings that name both."""
    with available(), PostgreSQL() as primary, PostgreSQL(standby_of=primary) as standby:
        admin = await asyncpg.connect(primary.url)
        await admin.execute("CREATE DATABASE configcache_test_failover")
        await admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await admin.execute("SELECT pg_reload_conf()")
        await eventually(
            lambda: admin.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
        )
        await admin.close()
        user, _, location = primary.url.rpartition("@")
        hosts = f"{location.split('/')[0]},{standby.url.rpartition('@')[2].split('/')[0]}"
        url = f"{user}@{hosts}/configcache_test_failover?target_session_attrs=read-write"
        await migrate(url, schema="public")
        yield (
            primary,
            standby,
            Settings(broker=BrokerSettings(url=vhost), database=DatabaseSettings(url=url)),
        )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way", ["demoted", "killed"])
@pytest.mark.row(6, "failover: the primary demoted or killed, its standby promoted")
async def test_after_a_failover_the_new_primary_is_found(replicated, start_worker, way):
    primary, standby, settings = replicated
    load = Load(settings)
    await load.declare()
    numbers = range(1, 10_001)
    await load.fill(numbers)
    worker = start_worker(settings, CONFIGCACHE_WORKER__BATCH="100")
    await ready(worker)

    async with load.flowing(numbers, poison_every=100):
        await load.begun()
        if way == "killed":
            await asyncio.to_thread(primary.kill)
        else:
            # The worker's connection stays open, and reads there stay green.
            admin = await asyncpg.connect(primary.url)
            await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await admin.execute("SELECT pg_reload_conf()")
            await admin.close()
            await eventually(lambda: paused(worker, "25006") or paused(worker, "no connection"))
        await asyncio.to_thread(standby.promote)

    await load.accounts_balance(worker)
    assert paused(worker)


@pytest.mark.in_suite
@pytest.mark.row(7, "all connections of the database taken (53300)")
async def test_without_a_free_connection_commands_wait(load, system, start_worker):
    await load.fill(range(1, 1_001))
    worker = start_worker(system.settings)
    await ready(worker)

    async with contextlib.AsyncExitStack() as stack:
        admin = await asyncpg.connect(system.settings.database.url)
        stack.push_async_callback(admin.close)

        async def take_all():
            with contextlib.suppress(asyncpg.TooManyConnectionsError):
                while True:
                    taken = await asyncpg.connect(system.settings.database.url)
                    stack.push_async_callback(taken.close)

        await take_all()
        await admin.execute(f"SELECT pg_terminate_backend(pid) {OF_THE_WORKER}")
        await eventually(lambda: admin.fetchval(f"SELECT count(*) = 0 {OF_THE_WORKER}"))
        await take_all()
        await load.publish(range(1, 1_001), poison_every=100)
        await eventually(lambda: paused(worker, "53300"))
        await load.buried()
    await load.accounts_balance(worker)
