"""What is sent for a publish, what is made of the broker's answers, and what passes through to the driver."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from configcache.confirms import PublishingSession
from configcache.errors import BrokerUnavailable, Refused, Unroutable
from configcache.frames import AnswerCutter, Confirmed, Returned, message, publish_method
from configcache.line import PublishingLine
from configcache.properties import CommandProperties
from configcache.publisher import Publisher
from configcache.stream import HEARTBEAT_INTERVAL_S
from tests.waiting import eventually

CHANNEL = 3
FRAME_MAX = 4096
HEARTBEAT = marshal(Heartbeat(), 0)
QOS_OK = marshal(commands.Basic.QosOk(), CHANNEL)
CHANNEL_CLOSE = marshal(commands.Channel.Close(404, "NOT_FOUND", 60, 40), CHANNEL)
CONNECTION_CLOSE = marshal(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0), 0)


def ack(tag: int, *, multiple: bool = False, channel: int = CHANNEL) -> bytes:
    return marshal(commands.Basic.Ack(tag, multiple), channel)


def nack(tag: int, *, multiple: bool = False) -> bytes:
    return marshal(commands.Basic.Nack(tag, multiple), CHANNEL)


def returned(message_id: str, body: bytes = b"body") -> bytes:
    properties = commands.Basic.Properties(message_id=message_id, headers={"n": 1})
    frames = [
        commands.Basic.Return(312, "NO_ROUTE", "exchange", "key"),
        ContentHeader(body_size=len(body), properties=properties),
        *(ContentBody(body[at : at + 1000]) for at in range(0, len(body), 1000)),
    ]
    return b"".join(marshal(frame, CHANNEL) for frame in frames)


def frames_of(data: bytes) -> list:
    frames = []
    while data:
        size, _, frame = unmarshal(data)
        frames.append(frame)
        data = data[size:]
    return frames


# What is sent


names = st.text(max_size=60)


@given(
    app_id=st.none() | names,
    message_id=st.text(min_size=1, max_size=60),
    at_ms=st.integers(2**32, 2**62),
    traced=st.lists(st.text(max_size=300), max_size=2)
    .map(partial(zip, ("traceparent", "tracestate")))
    .map(dict),
)
def test_a_commands_properties_are_those_that_the_driver_would_encode(app_id, message_id, at_ms, traced):
    encoded = CommandProperties(app_id).encode(message_id=message_id, published_at_ms=at_ms, trace=traced)

    assert encoded == (
        commands.Basic.Properties(
            content_type="application/json",
            headers={"published-at": at_ms, **traced},
            delivery_mode=2,
            message_id=message_id,
            message_type="ClearConfigurationCache",
            app_id=app_id,
        ).marshal()
    )


def test_a_name_of_a_service_that_amqp_cannot_carry_is_an_error_at_once():
    Publisher(url="amqp://localhost/", app_id="é" * 127)

    with pytest.raises(ValueError, match="app_id must have at most 255 bytes, not 256"):
        Publisher(url="amqp://localhost/", app_id="é" * 128)


@given(body=st.binary(max_size=3 * FRAME_MAX), most_bytes=st.sampled_from([0, FRAME_MAX]))
def test_a_message_is_sent_in_frames_that_are_no_longer_than_agreed(body, most_bytes):
    properties = commands.Basic.Properties(message_id="m")
    method = publish_method(CHANNEL, "exchange", "key", True)

    frames = frames_of(message(CHANNEL, method, properties.marshal(), body, most_bytes=most_bytes))

    publish, header, *parts = frames
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("exchange", "key", True)
    assert (header.body_size, header.properties.message_id) == (len(body), "m")
    assert b"".join(part.value for part in parts) == body
    assert all(len(marshal(part, CHANNEL)) <= (most_bytes or len(body) + 8) for part in parts)


# What comes


def a_cutter() -> AnswerCutter:
    cutter = AnswerCutter()
    cutter.watch(CHANNEL)
    return cutter


ANSWERS = (
    (ack(1), Confirmed(1, False, True)),
    (ack(2**62, multiple=True), Confirmed(2**62, True, True)),
    (nack(3), Confirmed(3, False, False)),
    (nack(4, multiple=True), Confirmed(4, True, False)),
    (returned("m"), Returned("m")),
    (returned("empty", b""), Returned("empty")),
    (returned("long", bytes(3500)), Returned("long")),
)
OTHERS = (HEARTBEAT, QOS_OK, ack(9, channel=1), CHANNEL_CLOSE, CONNECTION_CLOSE)


@given(st.lists(st.sampled_from([*ANSWERS, *((frame, None) for frame in OTHERS)]), max_size=12), st.data())
def test_answers_and_rest_are_the_same_for_any_split(parts, data):
    stream = b"".join(frames for frames, _ in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    cutter = a_cutter()
    answers, rest = [], b""
    for start, end in itertools.pairwise([0, *cuts, len(stream)]):
        cut_out, passed_on = cutter.feed(stream[start:end])
        answers += cut_out
        rest += passed_on

    assert answers == [answer for _, answer in parts if answer]
    assert rest == b"".join(frames for frames, answer in parts if not answer)
    assert cutter.is_closing == any(frames in (CHANNEL_CLOSE, CONNECTION_CLOSE) for frames, _ in parts)


def test_everything_passes_through_before_a_channel_is_watched_also_half_of_a_frame():
    cutter = AnswerCutter()
    _, before = cutter.feed(QOS_OK[:5])
    cutter.watch(CHANNEL)

    answers, after = cutter.feed(QOS_OK[5:] + ack(1))

    assert before + after == QOS_OK
    assert answers == [Confirmed(1, False, True)]


@pytest.mark.parametrize(
    "stream", [b"AMQP\x00\x00\x09\x01", ack(1)[:-1] + b"\x00" + ack(2), b"\x07" + ack(1)]
)
def test_what_is_no_amqp_is_the_drivers_and_so_is_all_that_follows(stream):
    cutter = a_cutter()

    assert cutter.feed(stream) == ([], stream)
    assert cutter.feed(ack(3)) == ([], ack(3))


def test_a_returned_message_whose_properties_cannot_be_read_is_told_as_such():
    header = marshal(ContentHeader(properties=commands.Basic.Properties(message_id="id")), CHANNEL)

    answers, _ = a_cutter().feed(header.replace(b"\x02id", b"\x02\xff\xff"))

    assert answers == [Returned(None)]


# Both together, without a broker


class Wire(asyncio.Transport):
    """Keeps what is written; with *full*, as if the broker took nothing."""

    def __init__(self, line: PublishingLine) -> None:
        super().__init__()
        self.line = line
        self.writes: list[bytes] = []
        self.full = False
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        if self.full:
            self.line.pause_writing()

    @property
    def published(self) -> list[str]:
        return [
            frame.properties.message_id
            for frame in frames_of(b"".join(self.writes))
            if isinstance(frame, ContentHeader)
        ]


class Driver:
    """As much of the driver's connection and channel as a session looks at."""

    number = CHANNEL

    def __init__(self) -> None:
        self.connection = self
        self.connection_tune = commands.Connection.Tune(frame_max=FRAME_MAX)
        self.transport = None


class Session:
    """A session on a wire; the broker is the test."""

    def __init__(self, *, refusing_s: float = 60.0) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(loop=loop)
        self.line = PublishingLine(self.reader, loop)
        self.now_s = 0.0
        self.line._clock = lambda: self.now_s
        self.wire = Wire(self.line)
        self.line.connection_made(self.wire)
        self.session = PublishingSession(Driver(), Driver(), self.line, refusing_s=refusing_s)

    def publish(self, *message_ids: str, body: bytes = b"body", mandatory: bool = True) -> list[asyncio.Task]:
        return [
            asyncio.create_task(
                self.session.publish(
                    body,
                    commands.Basic.Properties(message_id=message_id).marshal(),
                    message_id=message_id,
                    exchange="exchange",
                    routing_key="key",
                    mandatory=mandatory,
                )
            )
            for message_id in message_ids
        ]

    async def sent(self, *message_ids: str, **options) -> list[asyncio.Task]:
        tasks = self.publish(*message_ids, **options)
        await eventually(lambda: set(message_ids) <= set(self.wire.published))
        return tasks

    def hear(self, *frames: bytes) -> None:
        self.line.data_received(b"".join(frames))


async def outcomes(tasks: list[asyncio.Task]) -> list:
    return [type(result) for result in await asyncio.gather(*tasks, return_exceptions=True)]


async def test_each_publish_hears_its_own_answer_in_whatever_order_they_come():
    there = Session()
    tasks = await there.sent("a", "b", "c", "d", "e")

    there.hear(ack(5), returned("b"), nack(4), ack(3, multiple=True))

    assert await outcomes(tasks) == [type(None), Unroutable, type(None), Refused, type(None)]


async def test_an_answer_nobody_waits_for_any_more_disturbs_nobody():
    there = Session()
    given_up, other = await there.sent("a", "b")
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up

    there.hear(returned("a"), ack(1), ack(1), nack(7), ack(2))

    await other
    assert (there.session._open, there.session._tags) == ({}, {})


async def test_what_is_published_in_one_turn_of_the_loop_costs_two_writes():
    there = Session()

    await there.sent(*(str(number) for number in range(50)))

    assert there.wire.published == [str(number) for number in range(50)]
    assert len(there.wire.writes) == 2
    there.session.end(None)


async def test_while_the_broker_takes_nothing_no_more_than_a_little_waits_in_memory():
    there = Session()
    there.wire.full = True
    tasks = there.publish(*(str(number) for number in range(100)), body=bytes(20_000))
    for _ in range(10):
        await asyncio.sleep(0)
    assert 0 < sum(map(len, there.wire.writes)) < 200_000

    there.wire.full = False
    there.line.resume_writing()
    await eventually(lambda: len(there.wire.published) == len(tasks))
    there.hear(ack(100, multiple=True))

    assert set(await outcomes(tasks)) == {type(None)}


async def test_who_waits_for_room_when_the_session_ends_is_told():
    there = Session()
    there.line.pause_writing()
    tasks = there.publish("a", "b")
    await asyncio.sleep(0)

    there.session.end(ConnectionError("cut"))

    assert await outcomes(tasks) == [BrokerUnavailable] * 2
    assert there.wire.writes == []


async def test_nobody_waits_for_room_on_a_session_that_has_ended():
    there = Session()
    there.session.end(ConnectionError("cut"))
    there.line.pause_writing()  # what was gathered before the end fills the socket after it

    async with asyncio.timeout(1):
        assert await outcomes(there.publish("a")) == [BrokerUnavailable]


@pytest.mark.parametrize("closing", [CHANNEL_CLOSE, CONNECTION_CLOSE])
async def test_nothing_is_sent_after_the_broker_has_closed_though_the_driver_has_not_noticed(closing):
    there = Session()
    before = await there.sent("a")
    there.hear(closing)
    tasks = there.publish("b")
    await asyncio.sleep(0)

    there.session.end(ConnectionError("closed"))

    assert await outcomes([*before, *tasks]) == [BrokerUnavailable] * 2
    assert there.wire.published == ["a"]
    with pytest.raises(BrokerUnavailable, match="the connection was lost: closed"):
        await there.session.wait_ended()


async def test_who_publishes_again_and_again_on_a_dead_session_leaves_the_others_their_turn():
    there = Session()
    there.session.end(None)
    turns = 0

    async def publish() -> None:
        while turns < 100:
            with contextlib.suppress(BrokerUnavailable):
                await there.session.publish(b"", b"", message_id="a", exchange="", routing_key="")

    publishing = asyncio.create_task(publish())
    while not publishing.done():
        turns += 1
        await asyncio.sleep(0)

    assert turns >= 100


async def test_a_channel_that_has_long_confirmed_nothing_is_ended_by_its_first_refusal():
    there = Session(refusing_s=0.0)
    tasks = await there.sent("a", "b")

    there.hear(nack(1))

    assert await outcomes(tasks) == [BrokerUnavailable] * 2


async def test_a_returned_message_that_cannot_be_told_from_others_ends_the_session():
    there = Session()
    tasks = await there.sent("a", "b")

    there.hear(returned("id").replace(b"\x02id", b"\x02\xff\xff"))

    assert await outcomes(tasks) == [BrokerUnavailable] * 2


async def test_while_only_answers_come_the_driver_gets_a_heartbeat_now_and_then():
    there = Session()

    for tag in range(1, 11):
        there.now_s += HEARTBEAT_INTERVAL_S / 4
        there.hear(ack(tag))

    assert bytes(there.reader._buffer) == HEARTBEAT * 2
