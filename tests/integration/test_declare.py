"""Declaring the topology on a real broker, with and without the right to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aio_pika.abc import AbstractConnection

from configcache.connection import close_connection, connect
from configcache.topology import (
    COMMAND_EXCHANGE,
    COMMAND_QUEUE,
    COMMAND_ROUTING_KEY,
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_QUEUE,
    EVENT_EXCHANGE,
    WORKER_PERMISSIONS,
)
from configcache_worker.rabbitmq.declare import (
    Problem,
    TopologyMismatch,
    TopologyMissing,
    check,
    create,
    declare,
    examine,
)
from tests.users import user

EVERYTHING = {COMMAND_EXCHANGE, COMMAND_QUEUE, DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, EVENT_EXCHANGE}


@pytest.fixture
async def connection(vhost) -> AsyncIterator[AbstractConnection]:
    connection = await connect(vhost, name="test", timeout_s=10, heartbeat_s=10)
    yield connection
    await close_connection(connection)


@pytest.fixture
def worker_url(rabbitmq, vhost) -> Iterator[str]:
    """The vhost as a user with a worker's least rights sees it."""
    with user(rabbitmq, vhost, WORKER_PERMISSIONS) as url:
        yield url


@pytest.fixture
async def worker_connection(worker_url) -> AsyncIterator[AbstractConnection]:
    connection = await connect(worker_url, name="test", timeout_s=10, heartbeat_s=10)
    yield connection
    await close_connection(connection)


async def test_an_empty_vhost_gets_everything(connection):
    await declare(connection, may_declare=True)

    assert await check(connection) == []


async def test_what_is_created_is_told(connection):
    await create(connection)
    channel = await (await connection.channel()).get_underlay_channel()
    await channel.queue_delete(COMMAND_QUEUE)

    report = await create(connection)

    assert [entity.name for entity in report.created] == [COMMAND_QUEUE]
    assert (await create(connection)).created == []


async def test_a_command_published_to_the_exchange_reaches_the_queue(connection):
    await declare(connection, may_declare=True)

    channel = await (await connection.channel()).get_underlay_channel()
    await channel.basic_publish(
        b"x", exchange=COMMAND_EXCHANGE, routing_key=COMMAND_ROUTING_KEY, mandatory=True
    )
    message = await channel.basic_get(COMMAND_QUEUE)
    await channel.basic_reject(message.delivery_tag, requeue=False)

    assert message.body == b"x"


async def test_declaring_again_changes_nothing(connection):
    await declare(connection, may_declare=True)

    await declare(connection, may_declare=True)

    assert await check(connection) == []


async def test_several_workers_declare_at_the_same_time(vhost, connection):
    connections = [await connect(vhost, name="test", timeout_s=10, heartbeat_s=10) for _ in range(4)]

    await asyncio.gather(*(declare(each, may_declare=True) for each in connections))
    await asyncio.gather(*(close_connection(each) for each in connections))

    assert await check(connection) == []


async def test_a_binding_that_was_lost_is_made_again(connection):
    await declare(connection, may_declare=True)
    channel = await (await connection.channel()).get_underlay_channel()
    await channel.queue_unbind(COMMAND_QUEUE, COMMAND_EXCHANGE, COMMAND_ROUTING_KEY)

    await declare(connection, may_declare=True)

    await channel.basic_publish(
        b"x", exchange=COMMAND_EXCHANGE, routing_key=COMMAND_ROUTING_KEY, mandatory=True
    )
    assert (await channel.basic_get(COMMAND_QUEUE, no_ack=True)).body == b"x"


async def test_a_queue_with_other_arguments_stops_everything_in_the_brokers_words(connection):
    channel = await (await connection.channel()).get_underlay_channel()
    await channel.queue_declare(COMMAND_QUEUE, durable=True)

    with pytest.raises(TopologyMismatch, match="inequivalent arg") as raised:
        await declare(connection, may_declare=True)

    assert [finding.name for finding in raised.value.findings] == [COMMAND_QUEUE]
    assert {finding.name for finding in await check(connection) if finding.problem is Problem.MISSING} == (
        EVERYTHING - {COMMAND_QUEUE}
    )


async def test_an_exchange_of_another_type_is_a_mismatch(connection):
    await declare(connection, may_declare=True)
    channel = await (await connection.channel()).get_underlay_channel()
    await channel.exchange_delete(EVENT_EXCHANGE)
    await channel.exchange_declare(EVENT_EXCHANGE, exchange_type="fanout", durable=True)

    findings = await check(connection)

    assert [(finding.name, finding.problem) for finding in findings] == [(EVENT_EXCHANGE, Problem.DIFFERENT)]


async def test_what_is_missing_is_named_where_declaring_is_switched_off(connection):
    with pytest.raises(TopologyMissing) as raised:
        await declare(connection, may_declare=False)

    assert set(raised.value.names) == EVERYTHING


async def test_nothing_is_wrong_where_declaring_is_switched_off_and_all_is_there(connection):
    await declare(connection, may_declare=True)

    await declare(connection, may_declare=False)

    assert await check(connection) == []


@pytest.mark.parametrize("may_declare", [True, False])
async def test_a_worker_with_least_rights_starts_where_all_is_there(
    connection, worker_connection, may_declare
):
    await declare(connection, may_declare=True)

    await declare(worker_connection, may_declare=may_declare)

    assert await check(worker_connection) == []


async def test_what_could_not_be_compared_for_lack_of_rights_is_told(connection, worker_connection):
    await declare(connection, may_declare=True)

    report = await examine(worker_connection)

    assert set(report.uncompared) == EVERYTHING
    assert (await examine(connection)).uncompared == []


@pytest.mark.parametrize("may_declare", [True, False])
async def test_a_worker_with_least_rights_learns_what_is_missing(connection, worker_connection, may_declare):
    await declare(connection, may_declare=True)
    channel = await (await connection.channel()).get_underlay_channel()
    await channel.queue_delete(COMMAND_QUEUE)

    with pytest.raises(TopologyMissing, match="no queue") as raised:
        await declare(worker_connection, may_declare=may_declare)

    assert raised.value.names == [COMMAND_QUEUE]
