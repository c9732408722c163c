"""What worker and relay tell of themselves on /metrics, while real servers do well and not so well."""

from __future__ import annotations

import contextlib
import functools

import asyncpg
import pytest

from configcache import ClearConfigurationCache, outbox
from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE
from configcache_worker.local.ports import free_ports
from configcache_worker.postgres import backlog
from tests.chaos.load import delete_queue
from tests.commands import declare
from tests.integration.test_relay import one, relaying
from tests.integration.test_sessions import REFUSE_SEVEN, clear, row
from tests.locks import locked_row, someone_waits_for_a_lock
from tests.metrics import is_served, readiness, scrape
from tests.proxy import Proxy
from tests.waiting import eventually

ALL = ClearConfigurationCache.for_all("WebClient", "Web")


@pytest.fixture
def watched(new_system):
    """Makes systems that serve metrics: the system, and what asks it for them."""

    @contextlib.asynccontextmanager
    async def watched(**settings):
        (port,) = free_ports(1)
        async with new_system(telemetry={"port": port}, **settings) as system:
            yield system, functools.partial(scrape, port)

    return watched


def ready(system):
    return readiness(system.settings.telemetry.port)


def tells(ask, name, expected, **labels):
    """A condition: what *ask* gets for *name* is *expected*, or fulfils it where it is a function."""

    async def is_told():
        value = (await ask())(name, **labels)
        return expected(value) if callable(expected) else value == expected

    return is_told


async def test_what_was_cleared_merged_dead_lettered_and_rejected_is_counted(watched):
    async with watched() as (system, ask):
        await system.fill([row(associate) for associate in range(1, 6)])
        async with locked_row(system, 1):
            await system.publish(clear(1))
            await someone_waits_for_a_lock(system)
            await system.publish(clear(2), clear(2), clear(3), ALL)
            await system.publish_raw(b"{", b"x" * 1_100_000)
            await eventually(tells(ask, "configcache_commands_in_flight", 5))
            assert (await ask())("configcache_rows_cleared_total") == 0
        await system.settled()
        told = await ask()

    assert told("configcache_commands_total", outcome="cleared", reason="") == 5
    assert told("configcache_commands_total", outcome="dead_lettered", reason="invalid-json") == 1
    assert told("configcache_commands_total", outcome="rejected", reason="body-too-large") == 1
    assert told("configcache_commands_total", outcome="rejected", reason="invalid-json") == 0
    assert told("configcache_dead_letters_total", reason="invalid-json") == 1
    assert told("configcache_dead_letters_total", reason="body-too-large") == 1
    assert told("configcache_deliveries_received_total") == 7
    assert told("configcache_rows_cleared_total") == 5
    assert told("configcache_commands_coalesced_total") == 3
    assert told("configcache_batch_commands_count") == 2
    assert told("configcache_batch_commands_sum") == 5
    assert told("configcache_batch_commands_bucket", le="1.0") == 1
    assert told("configcache_batch_duration_seconds_count") == 2
    assert told("configcache_invalidation_lag_seconds_count") == 2
    assert 0 < told("configcache_invalidation_lag_seconds_sum") < 30
    assert told("configcache_commands_in_flight") == 0
    assert told("configcache_consuming") == 1
    assert told("configcache_sessions_total", cause="start") == 1
    assert told("process_cpu_seconds_total") > 0
    assert [sample for family in told.families for sample in family.samples if "version" in sample.labels]


async def test_an_outage_of_the_database_is_a_pause_with_retries(watched):
    async with watched() as (system, ask):
        await system.fill([row(1)])
        await system.execute("ALTER TABLE configuration_cache RENAME TO away")
        await system.publish(clear(1))
        await eventually(tells(ask, "configcache_paused", 1, cause="database"))
        await eventually(tells(ask, "configcache_retries_total", lambda n: n > 1, cause="database"))
        lasting = (await ask())("configcache_paused_seconds_total", cause="database")
        status, reasons = await ready(system)
        assert (status, list(reasons)) == (503, ["database"])
        assert "42P01" in reasons["database"]
        await system.execute("ALTER TABLE away RENAME TO configuration_cache")
        await system.settled()
        told = await ask()
        assert await ready(system) == (200, {})

    assert told("configcache_paused", cause="database") == 0
    assert told("configcache_paused_seconds_total", cause="database") > lasting > 0
    assert told("configcache_paused_seconds_total", cause="dead-letters-unavailable") == 0


async def test_a_command_at_fault_is_set_aside_and_convicted(watched):
    async with watched() as (system, ask):
        await system.fill([row(associate) for associate in range(1, 300)])
        await system.execute(REFUSE_SEVEN)
        await system.publish(clear(7), clear(8))
        await eventually(tells(ask, "configcache_commands_set_aside", 1))
        for associate in range(9, 300):
            await system.publish(clear(associate))
            if system.worker.pipeline.totals.convicted:
                break
            await eventually(lambda: system.worker.pipeline.in_flight <= 1)
        await system.settled()
        told = await ask()

    assert told("configcache_convictions_total", reason="refused-by-database") == 1
    assert told("configcache_dead_letters_total", reason="refused-by-database") == 1
    assert told("configcache_commands_set_aside") == 0
    assert told("configcache_retries_total", cause="set-aside") >= 2


async def test_sessions_are_counted_by_what_made_them_necessary(watched):
    async with watched() as (system, ask):
        (await system.worker.sessions.session())._tap.abort()
        await eventually(tells(ask, "configcache_sessions_total", 1, cause="connection-lost"))
        await delete_queue(system.settings.broker.url, COMMAND_QUEUE)
        await eventually(tells(ask, "configcache_sessions_total", 1, cause="consumer-cancelled"))
        await (await system.worker.sessions.session())._channel.close()
        await eventually(tells(ask, "configcache_sessions_total", 1, cause="channel-closed"))
        told = await ask()

    assert told("configcache_sessions_total", cause="start") == 1
    assert told("configcache_sessions_total", cause="other") == 0
    assert told("configcache_paused", cause="broker") == 0
    assert told("configcache_paused_seconds_total", cause="broker") > 0
    assert told("configcache_retries_total", cause="broker") >= 3


async def test_without_a_queue_for_dead_letters_that_is_told_until_there_is_one(watched):
    async with watched(worker={"prefetch": 4}, broker={"declare": False}) as (system, ask):
        await delete_queue(system.settings.broker.url, DEAD_LETTER_QUEUE)
        await system.publish_raw(b"{", b"{", b"{")
        await eventually(tells(ask, "configcache_paused", 1, cause="dead-letters-unavailable"))
        await eventually(
            tells(ask, "configcache_retries_total", lambda n: n > 0, cause="dead-letters-unavailable")
        )
        told = await ask()
        assert told("configcache_letters_waiting") == 3
        assert told("configcache_letters_held_bytes") > 3
        status, reasons = await ready(system)
        assert (status, list(reasons)) == (503, ["dead-letters-unavailable"])
        await system.bench.declare()
        await system.settled()
        told = await ask()

    assert told("configcache_paused", cause="dead-letters-unavailable") == 0
    assert told("configcache_paused_seconds_total", cause="dead-letters-unavailable") > 0
    assert told("configcache_letters_waiting") == 0


async def test_a_relay_tells_what_waits_and_what_it_has_published(vhost, outbox_url):
    sql = await asyncpg.connect(outbox_url)
    async with sql.transaction():
        for associate in (1, 1, 2):
            await outbox.enqueue(sql, one(associate))
    await sql.close()
    (port,) = free_ports(1)
    ask = functools.partial(scrape, port)
    async with relaying(vhost, outbox_url, telemetry={"port": port}):
        await eventually(lambda: is_served(port))
        await eventually(tells(ask, "configcache_paused", 1, cause="broker"))  # there is no exchange yet
        before = await ask()
        await declare(vhost)
        await eventually(tells(ask, "configcache_relay_published_total", 3))
        await eventually(tells(ask, "configcache_relay_backlog_rows", 0))
        told = await ask()

    assert before("configcache_relay_backlog_rows") == 3
    assert before("configcache_relay_lag_seconds") > 0
    assert before("configcache_relay_published_total") == 0
    assert told("configcache_relay_commands_total") == 2
    assert told("configcache_relay_lag_seconds") == 0
    assert told("configcache_relay_retries_total") > 0
    assert told("configcache_paused", cause="broker") == 0
    assert told("configcache_paused_seconds_total", cause="broker") > 0
    assert told("configcache_paused", cause="database") == 0


async def test_a_database_that_hangs_does_not_hold_up_the_metrics_of_a_relay(vhost, outbox_url, monkeypatch):
    monkeypatch.setattr(backlog, "_FRESH_S", 0.0)
    (port,) = free_ports(1)
    ask = functools.partial(scrape, port)
    async with Proxy(outbox_url) as line, relaying(vhost, line.url, telemetry={"port": port}):
        await eventually(lambda: is_served(port))
        await eventually(tells(ask, "configcache_relay_backlog_rows", 0))
        monkeypatch.setattr(backlog, "_PATIENCE_S", 0.1)
        line.freeze()
        told = await ask()
        line.thaw()

    assert told("configcache_relay_published_total") == 0
    assert told("configcache_relay_backlog_rows") is None
    assert told("configcache_relay_lag_seconds") is None
