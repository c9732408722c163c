"""Dead letters published to a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from structlog.testing import capture_logs

from configcache.connection import RetryPolicy, close_connection, connect
from configcache.topology import DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, DEAD_LETTER_ROUTING_KEY
from configcache.wire import Properties, Reason
from configcache_worker.core.ports import Burial, Delivery, Letter
from configcache_worker.rabbitmq.dead_letters import RabbitDeadLetters
from configcache_worker.rabbitmq.declare import declare
from configcache_worker.rabbitmq.reading import Envelope
from tests.proxy import Proxy


@pytest.fixture
async def connection(vhost):
    """A connection of the test's own, to a vhost with the topology on it."""
    connection = await connect(vhost, name="test", timeout_s=10, heartbeat_s=10)
    await declare(connection, may_declare=True)
    yield connection
    await close_connection(connection)


@pytest.fixture
async def channel(connection):
    return await (await connection.channel()).get_underlay_channel()


@pytest.fixture
async def dead_letters(vhost, connection) -> AsyncIterator[RabbitDeadLetters]:
    dead_letters = to(vhost)
    yield dead_letters
    await dead_letters.stop()


def to(url: str, confirm_timeout_s: float = 1.0) -> RabbitDeadLetters:
    return RabbitDeadLetters(
        url=url,
        policy=RetryPolicy(longest_s=0.1),
        connect_timeout_s=10,
        heartbeat_s=10,
        confirm_timeout_s=confirm_timeout_s,
        clock=lambda: 1_700_000_000.123,
    )


def a_letter(body: bytes = b"body", **properties: object) -> Letter:
    header = ContentHeader(body_size=len(body), properties=Basic.Properties(**properties)).marshal()
    envelope = Envelope(False, b"configuration", b"key", header)
    delivery = Delivery(1, body, Properties(), False, None, len(body) + len(header), envelope)
    return Letter(delivery, Reason.INVALID_JSON, "not JSON")


async def buried(channel, count: int) -> list:
    messages = [await channel.basic_get(DEAD_LETTER_QUEUE, no_ack=True) for _ in range(count + 1)]
    assert messages.pop().delivery_tag is None, "there are more than expected"
    return messages


async def until_buried(dead_letters: RabbitDeadLetters, letters: Sequence[Letter]) -> None:
    async with asyncio.timeout(10):
        while set(await dead_letters.bury(letters)) != {Burial.CONFIRMED}:
            await asyncio.sleep(0)


async def test_a_confirmed_letter_is_in_the_queue_with_body_reason_and_properties(dead_letters, channel):
    body = bytes(range(256))

    outcomes = await dead_letters.bury(
        [a_letter(body, message_id="old", app_id="producer", headers={"k": "v"})]
    )

    assert outcomes == [Burial.CONFIRMED]
    (message,) = await buried(channel, 1)
    assert message.body == body
    assert message.header.properties.app_id == "producer"
    assert message.header.properties.delivery_mode == 2
    assert message.header.properties.message_id not in {None, "old"}
    headers = dict(message.header.properties.headers)
    headers.pop(
        "x-delivery-count", None
    )  # some versions of the dead-letter queue add it from the first delivery on
    assert headers == {
        "k": "v",
        "dead-letter-reason": "invalid-json",
        "dead-letter-detail": "not JSON",
        "dead-lettered-at": 1_700_000_000_123,
        "original-exchange": "configuration",
        "original-routing-key": "key",
        "original-message-id": "old",
    }


async def test_properties_that_would_make_the_broker_refuse_the_copy_do_not(dead_letters, channel):
    letters = [
        a_letter(user_id="somebody else"),
        a_letter(expiration="never"),
        a_letter(expiration="0"),
        a_letter(headers={"CC": "not an array"}),
        a_letter(headers={"CC": [DEAD_LETTER_ROUTING_KEY]}),
        a_letter(reply_to="amq.rabbitmq.reply-to"),
    ]

    outcomes = await dead_letters.bury(letters)

    assert outcomes == [Burial.CONFIRMED] * len(letters)
    assert len(await buried(channel, len(letters))) == len(letters)


async def test_many_letters_with_one_message_id_go_side_by_side(dead_letters, channel):
    outcomes = await dead_letters.bury([a_letter(b"%d" % n, message_id="the same") for n in range(300)])

    assert outcomes == [Burial.CONFIRMED] * 300
    assert {message.body for message in await buried(channel, 300)} == {b"%d" % n for n in range(300)}


async def test_what_leaves_no_room_for_the_reason_is_unencodable_and_holds_up_nothing(dead_letters, channel):
    too_long = a_letter(headers={"a": "x" * 65_536})

    assert await dead_letters.bury([too_long, a_letter()]) == [Burial.UNENCODABLE, Burial.CONFIRMED]
    assert len(await buried(channel, 1)) == 1


async def test_a_letter_without_a_queue_to_go_to_is_unavailable(dead_letters, channel):
    await channel.queue_unbind(DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY)

    with capture_logs() as logs:
        outcomes = await dead_letters.bury([a_letter(b"secret"), a_letter(b"secret")])

    assert outcomes == [Burial.UNAVAILABLE] * 2
    assert [(entry["event"], entry["count"]) for entry in logs] == [("letters.unavailable", 2)]
    assert "no queue is bound" in logs[0]["error"]
    assert "secret" not in str(logs)


async def test_a_missing_exchange_is_unavailable_until_it_is_there(dead_letters, channel, connection):
    await channel.exchange_delete(DEAD_LETTER_EXCHANGE)
    assert await dead_letters.bury([a_letter(), a_letter()]) == [Burial.UNAVAILABLE] * 2

    await declare(connection, may_declare=True)
    await until_buried(dead_letters, [a_letter()])

    assert len(await buried(channel, 1)) == 1


async def test_a_lost_connection_is_rebuilt(dead_letters, channel):
    await dead_letters.bury([a_letter(b"before")])
    dead_letters._sessions.current._connection.transport.connection._writer_task.cancel()

    await until_buried(dead_letters, [a_letter(b"after")])

    bodies = [
        message.body
        for message in [await channel.basic_get(DEAD_LETTER_QUEUE, no_ack=True) for _ in range(2)]
    ]
    assert bodies == [b"before", b"after"]


async def test_without_a_broker_letters_are_unavailable_within_the_timeout():
    dead_letters = to("amqp://guest:guest@127.0.0.1:1/")

    with capture_logs() as logs:
        async with asyncio.timeout(3):
            outcomes = await dead_letters.bury([a_letter()])
    await dead_letters.stop()

    assert outcomes == [Burial.UNAVAILABLE]
    assert "127.0.0.1:1" in logs[-1]["error"]


async def test_a_cancelled_burial_leaves_nothing_behind(dead_letters, vhost):
    await dead_letters.bury([a_letter()])
    tasks = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await dead_letters.bury([a_letter() for _ in range(50)])

    assert asyncio.all_tasks() <= tasks


async def test_stopping_is_safe_twice_and_leaves_nothing_behind(vhost, connection):
    tasks = asyncio.all_tasks()
    dead_letters = to(vhost)
    await dead_letters.bury([a_letter()])

    await dead_letters.stop()
    await dead_letters.stop()

    assert await dead_letters.bury([a_letter()]) == [Burial.UNAVAILABLE]
    async with asyncio.timeout(5):
        while left := asyncio.all_tasks() - tasks:
            await asyncio.wait(left)


async def test_nothing_is_opened_before_it_is_needed(vhost):
    tasks = asyncio.all_tasks()
    dead_letters = to(vhost)

    await dead_letters.bury([a_letter(headers={"a": "x" * 65_536})])

    assert asyncio.all_tasks() == tasks
    await dead_letters.stop()


async def test_a_line_that_a_firewall_has_forgotten_is_given_up_before_heartbeats_tell(
    vhost, connection, channel
):
    async with Proxy(vhost) as line:
        dead_letters = to(line.url, confirm_timeout_s=0.5)
        await until_buried(dead_letters, [a_letter(b"before")])
        line.forget()
        assert await dead_letters.bury([a_letter(b"lost")]) == [Burial.UNAVAILABLE]

        await until_buried(dead_letters, [a_letter(b"after")])
        await dead_letters.stop()

    bodies = [message.body for message in await buried(channel, 2)]
    assert bodies == [b"before", b"after"]
