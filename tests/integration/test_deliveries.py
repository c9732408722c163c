"""Sessions that consume the commands' queue of a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from urllib.parse import urlsplit

import aiormq
import pytest
from pamqp.commands import Basic

from configcache.connection import BrokerUnavailable, close_connection, connect
from configcache.topology import COMMAND_EXCHANGE, COMMAND_QUEUE, COMMAND_ROUTING_KEY, DEAD_LETTER_QUEUE
from configcache.wire import Properties, Reason
from configcache_worker.core.ports import Delivery, Settlement
from configcache_worker.rabbitmq import deliveries as deliveries_module
from configcache_worker.rabbitmq.declare import declare
from configcache_worker.rabbitmq.deliveries import Deliveries, DeliverySession
from tests.proxy import Proxy
from tests.raw import RawProperties


class Inbox:
    """Collects what is received, and lets a test wait for it."""

    def __init__(self) -> None:
        self.items: list = []
        self._changed = asyncio.Event()

    def put(self, items: Sequence) -> None:
        self.items += items
        self._changed.set()

    async def count(self, number: int) -> list:
        async with asyncio.timeout(10):
            while len(self.items) < number:
                self._changed.clear()
                await self._changed.wait()
        return self.items


class Publisher:
    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._channel = channel

    async def publish(self, body: bytes, properties: Basic.Properties | None = None) -> None:
        await self._channel.basic_publish(
            body,
            exchange=COMMAND_EXCHANGE,
            routing_key=COMMAND_ROUTING_KEY,
            properties=properties or Basic.Properties(delivery_mode=2),
            mandatory=True,
        )


async def prepare(connection) -> None:
    await declare(connection, may_declare=True)


@pytest.fixture
async def connection(vhost):
    """A connection of the test's own, to a vhost with the topology on it."""
    connection = await connect(vhost, name="test", timeout_s=10, heartbeat_s=10)
    await prepare(connection)
    yield connection
    await close_connection(connection)


@pytest.fixture
async def publisher(connection) -> Publisher:
    return Publisher(await (await connection.channel(on_return_raises=True)).get_underlay_channel())


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def opened(inbox) -> Callable[[str], contextlib.AbstractAsyncContextManager[DeliverySession]]:
    @contextlib.asynccontextmanager
    async def opened(url: str) -> AsyncIterator[DeliverySession]:
        session = await deliveries(url, inbox).open()
        yield session
        await session.close()

    return opened


@pytest.fixture(autouse=True)
def nothing_reported_by_the_event_loop(caplog) -> Iterator[None]:
    """Neither exceptions that nobody retrieved nor tasks destroyed while pending."""
    yield
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def deliveries(url: str, inbox: Inbox, *, prepare=prepare, queue=COMMAND_QUEUE) -> Deliveries:
    return Deliveries(
        url=url,
        prefetch=100,
        connect_timeout_s=10,
        heartbeat_s=10,
        receive=lambda _, received: inbox.put(received),
        prepare=prepare,
        queue=queue,
    )


def settlement(
    ack_up_to: int | None = None, acks: Sequence[int] = (), rejects: Sequence[int] = ()
) -> Settlement:
    return Settlement(ack_up_to=ack_up_to, acks=acks, rejects=rejects)


@contextlib.asynccontextmanager
async def read(url: str, queue: str) -> AsyncIterator[Inbox]:
    """What is in *queue* and ready for a consumer."""
    inbox = Inbox()
    session = await deliveries(url, inbox, queue=queue).open()
    yield inbox
    await session.close()


async def ready_messages(connection, queue: str) -> int:
    async with connection.channel() as channel:
        return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count


async def no_tasks_but(expected: set[asyncio.Task]) -> None:
    """
    Wait until no task but *expected* is left; the driver needs a few rounds of the event loop for its last
    ones.
    """
    async with asyncio.timeout(5):
        while left := asyncio.all_tasks() - expected:
            await asyncio.wait(left)


async def test_deliveries_arrive_with_body_properties_and_tags_from_1(vhost, publisher, opened, inbox):
    await publisher.publish(b"first", Basic.Properties(content_type="application/json", message_type="T"))
    await publisher.publish(b"")

    async with opened(vhost):
        first, second = await inbox.count(2)

    assert (first.tag, first.body, first.properties) == (
        1,
        b"first",
        Properties("application/json", None, "T"),
    )
    assert (second.tag, second.body, second.refusal, second.solo) == (2, b"", None, False)


async def test_what_is_settled_is_gone_and_what_is_not_is_handed_out_again(
    vhost, connection, publisher, opened, inbox
):
    for body in (b"1", b"2", b"3", b"4", b"5"):
        await publisher.publish(body)

    async with opened(vhost) as session:
        await inbox.count(5)
        assert session.settle(settlement(ack_up_to=2, acks=[4], rejects=[1]))
        await session.flush()

    async with read(vhost, DEAD_LETTER_QUEUE) as dead_letters, read(vhost, COMMAND_QUEUE) as commands:
        assert [delivery.body for delivery in await dead_letters.count(1)] == [b"1"]
        assert [(delivery.body, delivery.envelope.redelivered) for delivery in await commands.count(2)] == [
            (b"3", True),
            (b"5", True),
        ]


async def test_many_deliveries_are_settled_at_once(vhost, connection, publisher, opened, inbox):
    await asyncio.gather(*(publisher.publish(b"%d" % n) for n in range(100)))

    async with opened(vhost) as session:
        received = await inbox.count(100)
        assert session.settle(settlement(acks=[delivery.tag for delivery in received]))
        await session.flush()

    assert await ready_messages(connection, COMMAND_QUEUE) == 0


def table(*fields: bytes) -> bytes:
    joined = b"".join(fields)
    return struct.pack(">I", len(joined)) + joined


def long_string(text: bytes) -> bytes:
    return b"S" + struct.pack(">I", len(text)) + text


NASTY = {
    "timestamp in microseconds": (b"\x00\x40" + struct.pack(">Q", 1_700_000_000_000_000), b"body"),
    "timestamp at the end of time": (b"\x00\x40" + struct.pack(">Q", 2**64 - 1), b"body"),
    "message id not UTF-8": (b"\x00\x80\x02\xff\xfe", b"body"),
    "content type not UTF-8": (b"\x80\x00\x02\xff\xfe", b"body"),
    "header name not UTF-8": (b"\x20\x00" + table(b"\x02\xff\xfe" + long_string(b"x")), b"body"),
    "header with a timestamp out of range": (
        b"\x20\x00" + table(b"\x01tT" + struct.pack(">Q", 2**63)),
        b"body",
    ),
    "all that, and an empty body": (b"\x00\xc0\x02\xff\xfe" + b"\xff" * 8, b""),
    "130 KB of headers, one not UTF-8": (
        b"\x20\x00" + table(b"\x01a" + long_string(b"x" * 130_000), b"\x01\xff" + long_string(b"x")),
        b"body",
    ),
    "a body of 5 MB": (b"\x00\x80\x02id", b"0123456789" * 500_000),
}


@pytest.mark.parametrize("case", NASTY)
async def test_what_cannot_be_read_is_rejected_and_dead_lettered_unchanged(
    vhost, publisher, opened, inbox, case
):
    properties, body = NASTY[case]
    await publisher.publish(b"good before")
    await publisher.publish(body, RawProperties(properties))
    await publisher.publish(b"good after")

    async with opened(vhost) as session:
        before, nasty, after = await inbox.count(3)
        assert session.settle(settlement(acks=[before.tag, after.tag], rejects=[nasty.tag]))
        await session.flush()
        assert not session.has_ended

    assert (before.body, after.body) == (b"good before", b"good after")
    assert nasty.refusal is (Reason.BODY_TOO_LARGE if len(body) > 1 << 20 else Reason.UNREADABLE_PROPERTIES)
    assert await dead_letter_body(vhost) == body


async def dead_letter_body(vhost: str) -> bytes:
    """The body of the one message in the dead-letter queue, whatever its size and properties."""
    reader, writer = await asyncio.open_connection(urlsplit(vhost).hostname, urlsplit(vhost).port)
    stream = RawStream(reader, writer)
    try:
        return await stream.get(urlsplit(vhost).path[1:], DEAD_LETTER_QUEUE)
    finally:
        writer.close()
        await writer.wait_closed()


class RawStream:
    """Just enough of AMQP to get a body that neither a decoder nor a limit has touched."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self, vhost: str, queue: str) -> bytes:
        self._writer.write(b"AMQP\x00\x00\x09\x01")
        await self._method(10, 10)
        answer = b"\0guest\0guest"
        self._send(0, 10, 11, table() + b"\x05PLAIN" + struct.pack(">I", len(answer)) + answer + b"\x05en_US")
        tune = await self._method(10, 30)
        self._send(0, 10, 31, tune)
        self._send(0, 10, 40, bytes([len(vhost)]) + vhost.encode() + b"\0\0")
        await self._method(10, 41)
        self._send(1, 20, 10, b"\0")
        await self._method(20, 11)
        async with asyncio.timeout(10):
            while True:  # dead-lettering takes a moment
                self._send(1, 60, 70, b"\0\0" + bytes([len(queue)]) + queue.encode() + b"\1")
                _, payload = await self._frame()
                if payload.startswith(struct.pack(">HH", 60, 71)):
                    return await self._content()

    async def _content(self) -> bytes:
        _, header = await self._frame()
        (missing,) = struct.unpack_from(">Q", header, 4)
        body = b""
        while len(body) < missing:
            body += (await self._frame())[1]
        return body

    async def _method(self, class_id: int, method: int) -> bytes:
        _, payload = await self._frame()
        assert payload.startswith(struct.pack(">HH", class_id, method))
        return payload[4:]

    async def _frame(self) -> tuple[int, bytes]:
        kind, _, size = struct.unpack(">BHI", await self._reader.readexactly(7))
        return kind, (await self._reader.readexactly(size + 1))[:-1]

    def _send(self, channel: int, class_id: int, method: int, arguments: bytes) -> None:
        payload = struct.pack(">HH", class_id, method) + arguments
        self._writer.write(struct.pack(">BHI", 1, channel, len(payload)) + payload + b"\xce")


async def test_a_message_returned_ten_times_runs_alone(vhost, connection, publisher, opened, inbox):
    await publisher.publish(b"returned")
    channel = await (await connection.channel()).get_underlay_channel()
    for _ in range(10):
        message = await channel.basic_get(COMMAND_QUEUE)
        await channel.basic_reject(message.delivery_tag, requeue=True)  # a nack doesn't count from 4.3 on

    async with opened(vhost):
        (delivery,) = await inbox.count(1)

    assert delivery.solo


async def close_the_channel(session, rabbitmq, connection) -> None:
    session.settle(settlement(acks=[4711]))


async def close_the_connection(session, rabbitmq, connection) -> None:
    vhost = connection.url.path.removeprefix("/")
    await asyncio.to_thread(rabbitmq.ctl, "close_all_connections", "-p", vhost, "for the test")


async def delete_the_queue(session, rabbitmq, connection) -> None:
    async with connection.channel() as channel:
        await channel.queue_delete(COMMAND_QUEUE)


async def cut_the_line(session, rabbitmq, connection) -> None:
    session._tap.abort()


async def send_garbage(session, rabbitmq, connection) -> None:
    session._tap.data_received(b"garbage!")


async def fail_in_the_driver(session, rabbitmq, connection) -> None:
    await session._channel.connection.close()


ENDINGS = {
    close_the_channel: "the broker closed the channel: 406 PRECONDITION_FAILED",
    close_the_connection: "the broker closed the connection: 320 CONNECTION_FORCED - for the test",
    delete_the_queue: "the broker cancelled the consumer",
    cut_the_line: "the connection was closed",
    send_garbage: "the broker sent what is not AMQP",
    fail_in_the_driver: "the connection was closed",
}


@pytest.mark.parametrize("cause", ENDINGS)
async def test_whatever_ends_a_part_of_the_session_ends_it_whole(vhost, rabbitmq, connection, inbox, cause):
    tasks_before = asyncio.all_tasks()
    session = await deliveries(vhost, inbox).open()

    await cause(session, rabbitmq, connection)
    async with asyncio.timeout(10):
        reason = await session.wait_ended()

    assert reason.startswith(ENDINGS[cause])
    assert session.has_ended
    assert not session.settle(settlement(ack_up_to=1))
    async with asyncio.timeout(deliveries_module.CLOSE_TIMEOUT_S):
        await session.close()
    if cause is not close_the_connection:  # which was the test's own connection as well
        await no_tasks_but(tasks_before)


async def test_an_ended_session_takes_no_more_and_gives_back_what_it_has(vhost, publisher, inbox):
    session = await deliveries(vhost, inbox).open()
    await publisher.publish(b"received")
    await inbox.count(1)

    session.end("enough")
    await publisher.publish(b"not received")
    assert not session.settle(settlement(acks=[1]))
    assert await session.wait_ended() == "enough"
    await session.close()

    assert [delivery.body for delivery in inbox.items] == [b"received"]
    async with read(vhost, COMMAND_QUEUE) as commands:
        assert sorted(delivery.body for delivery in await commands.count(2)) == [b"not received", b"received"]


async def test_draining_settles_what_was_received_and_leaves_the_rest(vhost, connection, publisher, inbox):
    session = await deliveries(vhost, inbox).open()
    await publisher.publish(b"received")
    await inbox.count(1)

    await session.cancel_consumer()
    await publisher.publish(b"left")
    assert session.settle(settlement(ack_up_to=1))
    await session.flush()
    assert not session.has_ended
    await session.close()

    assert await session.wait_ended() == "closed"
    async with read(vhost, COMMAND_QUEUE) as commands:
        assert [delivery.body for delivery in await commands.count(1)] == [b"left"]


async def test_draining_an_ended_session_does_nothing(vhost, connection, inbox):
    session = await deliveries(vhost, inbox).open()
    session._tap.abort()
    await session.wait_ended()

    await session.cancel_consumer()
    await session.flush()
    await session.close()
    await session.close()

    assert session.has_ended


async def test_a_failure_in_receiving_ends_the_session(vhost, publisher, caplog):
    def fail(session: DeliverySession, received: Sequence[Delivery]) -> None:
        raise ValueError("a fault of the program")

    consumer = Deliveries(
        url=vhost, prefetch=10, connect_timeout_s=10, heartbeat_s=10, prepare=prepare, receive=fail
    )
    session = await consumer.open()

    await publisher.publish(b"x")
    reason = await session.wait_ended()
    await session.close()

    assert reason == "taking deliveries failed: ValueError('a fault of the program')"
    reported = [record for record in caplog.records if record.name == "asyncio"]
    assert [str(record.exc_info[1]) for record in reported] == ["a fault of the program"]
    caplog.clear()


async def test_without_its_queue_no_session_opens_and_nothing_is_left_behind(vhost, inbox):
    with pytest.raises(BrokerUnavailable, match="no queue"):
        await deliveries(vhost, inbox, prepare=None).open()

    await no_tasks_but({asyncio.current_task()})


async def test_a_failed_preparation_leaves_nothing_behind(vhost, inbox):
    async def fail(connection) -> None:
        raise LookupError("not prepared")

    with pytest.raises(LookupError):
        await deliveries(vhost, inbox, prepare=fail).open()

    await no_tasks_but({asyncio.current_task()})


async def test_a_closed_session_leaves_nothing_behind(vhost, inbox):
    session = await deliveries(vhost, inbox).open()

    await session.close()

    assert session.has_ended
    await no_tasks_but({asyncio.current_task()})


async def test_closing_does_not_wait_for_a_broker_that_is_silent(vhost, inbox, monkeypatch):
    monkeypatch.setattr(deliveries_module, "CLOSE_TIMEOUT_S", 0.1)
    async with Proxy(vhost) as line:
        session = await deliveries(line.url, inbox).open()

        line.freeze()
        async with asyncio.timeout(5):
            await session.close()

        assert await session.wait_ended() == "closed"


async def test_a_session_whose_broker_falls_silent_ends(vhost, inbox):
    async with Proxy(vhost) as line:
        consumer = Deliveries(
            url=line.url,
            prefetch=10,
            connect_timeout_s=10,
            heartbeat_s=1,
            prepare=prepare,
            receive=lambda _, received: inbox.put(received),
        )
        session = await consumer.open()

        line.freeze()
        async with asyncio.timeout(20):
            assert "connection" in await session.wait_ended()
            await session.close()

    assert session.has_ended
    await no_tasks_but({asyncio.current_task()})
