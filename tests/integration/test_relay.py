"""The relay between a real outbox and a real broker: what is committed is published, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import random

import asyncpg
import pytest

from configcache import ClearConfigurationCache, outbox, wire
from configcache.topology import COMMAND_QUEUE
from configcache_worker.app import build_relay
from configcache_worker.postgres.migrations import migrate
from configcache_worker.settings import (
    BrokerSettings,
    DatabaseSettings,
    RelaySettings,
    Settings,
    TelemetrySettings,
)
from tests.chaos.load import delete_queue
from tests.commands import arrived, channel_to, declare, published
from tests.proxy import Proxy
from tests.waiting import eventually

ALL = ClearConfigurationCache.for_all("WebClient", "Web")
NEVER_S = 3600.0  # to poll: what happens then, happens by notification


def one(associate):
    return ClearConfigurationCache.for_associate("WebClient", "Web", associate)


@pytest.fixture
def database(migrated):
    """The database of the test has the tables."""
    return migrated


@pytest.fixture
async def broker(vhost):
    """A virtual host with the topology on it."""
    await declare(vhost)
    return vhost


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@contextlib.asynccontextmanager
async def relaying(broker, database, *, telemetry=None, traces=None, **relay):
    """A relay that runs, looks without being notified as good as never, and is stopped at the end."""
    relay = build_relay(
        Settings(
            broker=BrokerSettings(url=broker),
            database=DatabaseSettings(url=database),
            relay=RelaySettings(**{"poll_interval_s": NEVER_S, "longest_retry_s": 0.2, **relay}),
            telemetry=TelemetrySettings(**(telemetry or {"port": 0})),
        ),
        traces=traces,
    )
    running = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        relay.stop()
        await running


async def ready(relay):
    async def is_ready():
        return (await relay.readiness()).ready

    await eventually(is_ready)


async def backlog(sql):
    return await sql.fetchval("SELECT count(*) FROM configuration_cache_outbox")


async def emptied(sql):
    async def is_empty():
        return await backlog(sql) == 0

    await eventually(is_empty)


async def commands_in(broker):
    return [wire.decode(message.body) for message in await published(broker)]


# The good case


async def test_what_is_committed_is_published_at_once(broker, database, sql):
    async with relaying(broker, database) as relay:
        await ready(relay)
        await outbox.enqueue(sql, ALL)
        await emptied(sql)
        async with sql.transaction():
            await outbox.enqueue(sql, one(1))
            await outbox.enqueue(sql, one(2))
        await emptied(sql)

    messages = await published(broker)
    assert next(wire.decode(message.body) for message in messages) == ALL
    assert {wire.decode(message.body) for message in messages} == {ALL, one(1), one(2)}
    assert {message.app_id for message in messages} == {"configcache relay"}


async def test_what_is_rolled_back_is_never_published(broker, database, sql):
    rng = random.Random(6)
    committed = set()
    async with relaying(broker, database) as relay:
        await ready(relay)
        for number in range(1, 201):
            transaction = sql.transaction()
            await transaction.start()
            await outbox.enqueue(sql, one(number))
            if rng.random() < 0.5:
                await transaction.rollback()
            else:
                await transaction.commit()
                committed.add(one(number))
        await emptied(sql)

    assert set(await commands_in(broker)) == committed
    assert len(committed) > 50


async def test_what_was_there_before_the_relay_is_published(broker, database, sql):
    await outbox.enqueue(sql, ALL)
    async with relaying(broker, database):
        await emptied(sql)

    assert await commands_in(broker) == [ALL]


async def test_without_a_notification_it_looks_from_time_to_time(broker, database, sql):
    async with relaying(broker, database, poll_interval_s=0.05) as relay:
        await ready(relay)
        await sql.execute(
            "INSERT INTO configuration_cache_outbox (application, instance, for_all_associates) VALUES ('A', 'B', true)"
        )
        await emptied(sql)

    assert await commands_in(broker) == [ClearConfigurationCache.for_all("A", "B")]


async def test_equal_commands_that_wait_are_published_once(broker, database, sql):
    for _ in range(20):
        await outbox.enqueue(sql, ALL)
        await outbox.enqueue(sql, one(7))
    async with relaying(broker, database):
        await emptied(sql)

    assert sorted(await commands_in(broker), key=repr) == sorted([ALL, one(7)], key=repr)


async def test_several_relays_share_the_work_and_none_does_it_twice(broker, database, sql):
    await sql.execute(
        "SELECT enqueue_clear_configuration_cache('WebClient', 'Web', false, n) FROM generate_series(1, 2000) AS n"
    )
    async with (
        relaying(broker, database, batch=50) as first,
        relaying(broker, database, batch=50) as second,
        relaying(broker, database, batch=50) as third,
    ):
        await emptied(sql)
    shares = [first.relayed, second.relayed, third.relayed]

    assert sum(shares) == 2000
    assert sum(share > 0 for share in shares) > 1
    commands = await arrived(broker)
    assert len(commands) == 2000
    assert set(commands) == {one(number) for number in range(1, 2001)}


async def test_select_update_and_delete_are_all_the_rights_it_needs(broker, database, sql):
    await sql.execute(
        "DROP ROLE IF EXISTS outbox_relay; CREATE ROLE outbox_relay LOGIN PASSWORD 'pass';"
        "GRANT SELECT, UPDATE, DELETE ON configuration_cache_outbox TO outbox_relay"
    )
    credentials, at, place = database.rpartition("@")
    url = f"{credentials.partition('://')[0]}://outbox_relay:pass{at}{place}"
    async with relaying(broker, url):
        await outbox.enqueue(sql, ALL)
        await emptied(sql)
    await sql.execute("DROP OWNED BY outbox_relay; DROP ROLE outbox_relay")

    assert await commands_in(broker) == [ALL]


# Something away


async def held_transactions(sql):
    """For how many seconds the relay has held its transaction, or nothing."""
    return await sql.fetchval(
        "SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8 FROM pg_stat_activity"
        " WHERE application_name = 'configcache relay' AND datname = current_database() AND state <> 'idle'"
    )


async def test_for_a_broker_that_is_away_no_transaction_is_held_and_nothing_is_lost(broker, database, sql):
    async with Proxy(broker) as line, relaying(line.url, database) as relay:
        await ready(relay)
        line.refuse()
        assert await eventually(lambda: _reason(relay, "broker")) == "no connection"
        await outbox.enqueue(sql, ALL)
        await eventually(lambda: line.refused > 2)
        assert await held_transactions(sql) is None
        assert await backlog(sql) == 1
        line.accept()
        await emptied(sql)
        await ready(relay)

    assert await commands_in(broker) == [ALL]


async def test_a_frozen_broker_holds_a_transaction_for_the_timeout_and_no_longer(broker, database, sql):
    async with Proxy(broker) as line, relaying(line.url, database, publish_timeout_s=0.5) as relay:
        await ready(relay)
        line.freeze()
        await outbox.enqueue(sql, ALL)
        longest_s = 0.0
        async with asyncio.timeout(10):
            while (await relay.readiness()).ready:
                longest_s = max(longest_s, await held_transactions(sql) or 0.0)
        line.thaw()
        await emptied(sql)

    assert 0 < longest_s < 2.5  # half a second, on a busy machine
    assert ALL in await commands_in(broker)


async def test_what_the_broker_refuses_stays_until_it_takes_it(broker, database, sql):
    await delete_queue(broker, COMMAND_QUEUE)
    async with relaying(broker, database) as relay:
        await outbox.enqueue(sql, ALL)

        async def is_held():
            return "configcache topology" in (await relay.readiness()).reasons.get("broker", "")

        await eventually(is_held)
        assert await backlog(sql) == 1
        await declare(broker)
        await emptied(sql)
        await ready(relay)

    assert await commands_in(broker) == [ALL]


async def test_of_a_batch_what_was_confirmed_goes_and_what_was_refused_stays(vhost, database, sql):
    async with channel_to(vhost) as channel:
        await channel.declare_exchange("configuration", "direct", durable=True)
        queue = await channel.declare_queue(
            COMMAND_QUEUE, durable=True, arguments={"x-max-length": 3, "x-overflow": "reject-publish"}
        )
        await queue.bind("configuration", COMMAND_QUEUE)
    for number in range(1, 9):
        await outbox.enqueue(sql, one(number))
    seen = set()
    async with relaying(vhost, database):
        async with asyncio.timeout(20):
            while await backlog(sql):
                seen |= set(await commands_in(vhost))
    seen |= set(await commands_in(vhost))

    assert seen == {one(number) for number in range(1, 9)}


async def test_a_database_that_is_not_migrated_is_waited_for(servers, broker):
    with servers.database() as url:
        async with relaying(broker, url) as relay:

            async def tells():
                return "configcache migrate" in (await relay.readiness()).reasons.get("database", "")

            await eventually(tells)
            await migrate(url, schema="public")
            connection = await asyncpg.connect(url)
            await outbox.enqueue(connection, ALL)
            await emptied(connection)
            await connection.close()

    assert await commands_in(broker) == [ALL]


async def test_a_lost_connection_to_the_database_is_replaced(broker, database, sql):
    async with relaying(broker, database) as relay:
        await ready(relay)
        for number in range(1, 6):
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'configcache relay'"
                " AND datname = current_database()"
            )
            await outbox.enqueue(sql, one(number))
            await emptied(sql)

    assert set(await commands_in(broker)) == {one(number) for number in range(1, 6)}


async def test_a_row_that_breaks_the_contract_stays_and_holds_up_no_other(broker, database, sql):
    await sql.execute(
        "ALTER TABLE configuration_cache_outbox DROP CONSTRAINT configuration_cache_outbox_application;"
        "INSERT INTO configuration_cache_outbox (application, instance, for_all_associates) VALUES (' ', 'B', true)"
    )
    async with relaying(broker, database) as relay:
        await outbox.enqueue(sql, ALL)

        async def only_the_bad_one_is_left():
            return await backlog(sql) == 1

        await eventually(only_the_bad_one_is_left)
        reason = await eventually(lambda: _reason(relay, "broker"))
        assert "row 1 of the outbox stays" in reason
        await sql.execute("DELETE FROM configuration_cache_outbox")
        await ready(relay)

    assert await commands_in(broker) == [ALL]


async def _reason(relay, part):
    return (await relay.readiness()).reasons.get(part)


# Its life


async def test_told_to_stop_it_finishes_the_rows_it_has_taken(broker, database, sql):
    async with Proxy(broker) as line:
        async with relaying(line.url, database) as relay:
            await ready(relay)
            line.freeze()
            await outbox.enqueue(sql, ALL)
            await eventually(lambda: line.held_bytes)
            relay.stop()
            assert (await relay.readiness()).reasons["relay"] == "draining"
            line.thaw()
        assert await backlog(sql) == 0

    assert await commands_in(broker) == [ALL]


async def test_told_to_stop_with_nothing_there_it_stops():
    nowhere = "amqp://127.0.0.1:1/", "postgresql://127.0.0.1:1/nowhere"
    async with asyncio.timeout(5), relaying(*nowhere):
        pass


async def test_as_a_process_it_is_ready_stops_in_order_and_says_what_it_did(
    start_worker, broker, database, sql
):
    settings = Settings(broker=BrokerSettings(url=broker), database=DatabaseSettings(url=database))
    process = start_worker(settings, verb="relay")
    await eventually(lambda: asyncio.to_thread(process.is_ready), timeout_s=30)
    await outbox.enqueue(sql, ALL)
    await emptied(sql)

    assert await asyncio.to_thread(process.terminate) == 0
    assert [event["rows"] for event in process.events("outbox.relayed")] == [1]
    assert process.events()[-1]["event"] == "relay.stopped"
    assert await commands_in(broker) == [ALL]


async def test_a_port_that_is_taken_is_told_in_a_line(start_worker, broker, database):
    settings = Settings(broker=BrokerSettings(url=broker), database=DatabaseSettings(url=database))
    first = start_worker(settings, verb="relay")
    await eventually(lambda: asyncio.to_thread(first.readiness), timeout_s=30)
    second = start_worker(settings, verb="relay", CONFIGCACHE_TELEMETRY__PORT=str(first.port))

    assert await asyncio.to_thread(second.wait) == 1
    (event,) = second.events("relay.refused")
    assert "telemetry.port" in event["error"]
