"""What is cut out of an AMQP byte stream, what passes through, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from configcache.stream import HEARTBEAT_INTERVAL_S
from configcache.wire import Properties, Reason
from configcache_worker.core.ports import Delivery, Settlement
from configcache_worker.rabbitmq.deliveries import encode_settlement
from configcache_worker.rabbitmq.frames import LONGEST_BODY_BYTES, DeliveryCutter, ProtocolError
from configcache_worker.rabbitmq.reading import Envelope
from configcache_worker.rabbitmq.tap import DeliveryTap

CHANNEL = 1
CONSUMER = "worker"
HEARTBEAT = marshal(Heartbeat(), 0)
QOS_OK = marshal(commands.Basic.QosOk(), CHANNEL)


def a_cutter() -> DeliveryCutter:
    cutter = DeliveryCutter()
    cutter.watch(CHANNEL, CONSUMER)
    return cutter


def deliver(
    tag: int, *, channel: int = CHANNEL, consumer: str = CONSUMER, redelivered: bool = False
) -> bytes:
    return marshal(commands.Basic.Deliver(consumer, tag, redelivered, "configuration", "key"), channel)


def content(body: bytes, *, channel: int = CHANNEL, frame_bytes: int = 1000) -> list[bytes]:
    properties = commands.Basic.Properties(message_id="m", headers={"n": len(body)})
    return [
        marshal(ContentHeader(body_size=len(body), properties=properties), channel),
        *(
            marshal(ContentBody(body[at : at + frame_bytes]), channel)
            for at in range(0, len(body), frame_bytes)
        ),
    ]


def message(tag: int, body: bytes, *, channel: int = CHANNEL, consumer: str = CONSUMER) -> list[bytes]:
    return [deliver(tag, channel=channel, consumer=consumer), *content(body, channel=channel)]


def feed_in_pieces(cutter: DeliveryCutter, stream: bytes, cuts: list[int]) -> tuple[list[Delivery], bytes]:
    deliveries: list[Delivery] = []
    rest = b""
    bounds = [0, *sorted(cuts), len(stream)]
    for start, end in itertools.pairwise(bounds):
        cut_out, passed_on = cutter.feed(stream[start:end])
        deliveries += cut_out
        rest += passed_on
    return deliveries, rest


def stated_bytes(delivery: Delivery) -> int:
    """The size of the body as the content header has it."""
    return int.from_bytes(delivery.envelope.header[4:12])


def test_a_delivery_is_cut_out_with_its_envelope_header_and_body():
    stream = deliver(1, redelivered=True) + b"".join(content(b"body"))

    deliveries, rest = a_cutter().feed(stream)

    header = content(b"body")[0][7:-1]
    envelope = Envelope(True, b"configuration", b"key", header)
    assert deliveries == [Delivery(1, b"body", Properties(), False, None, 4 + len(header), envelope)]
    assert rest == b""


def test_an_empty_body_needs_no_body_frame():
    deliveries, _ = a_cutter().feed(b"".join(message(1, b"")))

    assert [delivery.body for delivery in deliveries] == [b""]


def test_everything_passes_through_before_a_consumer_is_watched():
    stream = b"".join([QOS_OK, *message(1, b"body"), HEARTBEAT])

    assert DeliveryCutter().feed(stream) == ([], stream)


def test_what_is_not_amqp_passes_through_before_a_consumer_is_watched():
    assert DeliveryCutter().feed(b"AMQP\x00\x00\x09\x01") == ([], b"AMQP\x00\x00\x09\x01")


def test_watching_begins_between_two_parts_of_a_frame():
    cutter = DeliveryCutter()
    _, before = cutter.feed(QOS_OK[:5])
    cutter.watch(CHANNEL, CONSUMER)

    deliveries, after = cutter.feed(QOS_OK[5:] + b"".join(message(1, b"body")))

    assert before + after == QOS_OK
    assert [delivery.tag for delivery in deliveries] == [1]


def test_another_consumers_deliveries_and_returned_messages_pass_through():
    stream = b"".join(
        [
            *message(1, b"other consumer", consumer="somebody"),
            *message(1, b"other channel", channel=2),
            marshal(commands.Basic.Return(312, "NO_ROUTE", "exchange", "key"), CHANNEL),
            *content(b""),
            *message(2, b"ours"),
        ]
    )

    deliveries, rest = a_cutter().feed(stream)

    assert [delivery.body for delivery in deliveries] == [b"ours"]
    assert rest == stream[: -len(b"".join(message(2, b"ours")))]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes], bytes]:
    """A stream with several channels interleaved, the bodies to cut out of it, and what is left."""
    sizes = st.sampled_from([0, 1, 7, 999, 1000, 1001, 3500])
    ours = draw(st.lists(sizes, max_size=6))
    theirs = draw(st.lists(sizes, max_size=3))
    bodies = [bytes([65 + n]) * size for n, size in enumerate(ours)]
    frames = [(frame, True) for n, body in enumerate(bodies) for frame in message(n + 1, body)]
    passing = [frame for n, size in enumerate(theirs) for frame in message(n + 1, b"x" * size, channel=2)]
    passing += draw(st.lists(st.just(HEARTBEAT), max_size=3))
    for frame in passing:
        # Behind the last of the others, so that these keep their order.
        last = max((n for n, (_, is_ours) in enumerate(frames) if not is_ours), default=-1)
        frames.insert(draw(st.integers(last + 1, len(frames))), (frame, False))
    rest = b"".join(frame for frame, is_ours in frames if not is_ours)
    return b"".join(frame for frame, _ in frames), bodies, rest


@given(streams(), st.data())
def test_deliveries_and_rest_are_the_same_for_any_split(given_stream, data):
    stream, bodies, expected_rest = given_stream
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))

    deliveries, rest = feed_in_pieces(a_cutter(), stream, cuts)

    assert [delivery.body for delivery in deliveries] == bodies
    assert [delivery.tag for delivery in deliveries] == list(range(1, len(bodies) + 1))
    assert rest == expected_rest


def test_deliveries_and_rest_are_the_same_byte_by_byte():
    stream = b"".join([*message(1, b"a" * 2500), HEARTBEAT, *message(2, b""), QOS_OK])

    deliveries, rest = feed_in_pieces(a_cutter(), stream, list(range(len(stream))))

    assert [delivery.body for delivery in deliveries] == [b"a" * 2500, b""]
    assert rest == HEARTBEAT + QOS_OK


@pytest.mark.parametrize("read_bytes", [1000, 65_536, 262_144, 10_000_000])
def test_a_body_over_the_limit_is_discarded_as_it_passes(read_bytes):
    size = LONGEST_BODY_BYTES + 1
    frames = [deliver(1), *content(b"x" * size, frame_bytes=131_064), HEARTBEAT, *message(2, b"next")]
    stream = b"".join(frames)

    deliveries, rest = feed_in_pieces(a_cutter(), stream, list(range(0, len(stream), read_bytes)))

    assert [(stated_bytes(delivery), delivery.refusal) for delivery in deliveries] == [
        (size, Reason.BODY_TOO_LARGE),
        (4, None),
    ]
    assert rest == HEARTBEAT


@pytest.mark.parametrize("read_bytes", [100_000, 10_000_000])
def test_a_discarded_body_may_come_in_one_enormous_frame(read_bytes):
    size = 3 * LONGEST_BODY_BYTES
    stream = b"".join([deliver(1), *content(b"x" * size, frame_bytes=size), *message(2, b"next")])

    deliveries, _ = feed_in_pieces(a_cutter(), stream, list(range(0, len(stream), read_bytes)))

    assert [(stated_bytes(delivery), delivery.refusal) for delivery in deliveries] == [
        (size, Reason.BODY_TOO_LARGE),
        (4, None),
    ]


def test_a_body_at_the_limit_is_kept():
    stream = b"".join([deliver(1), *content(b"x" * LONGEST_BODY_BYTES, frame_bytes=131_064)])

    deliveries, _ = a_cutter().feed(stream)

    assert deliveries[0].body == b"x" * LONGEST_BODY_BYTES


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_wrong_frame_end_is_left_to_the_reader_behind(damaged):
    frames = message(2, b"body")
    frames[damaged] = frames[damaged][:-1] + b"\x00"
    tail = b"".join([*frames[damaged:], *message(3, b"after")])
    cutter = a_cutter()

    deliveries, rest = cutter.feed(b"".join([*message(1, b"before"), *frames[:damaged]]) + tail)

    assert [delivery.body for delivery in deliveries] == [b"before"]
    assert rest == tail
    assert cutter.feed(b"anything") == ([], b"anything")


ENDINGS = {
    "channel closed": (
        marshal(commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 80), CHANNEL),
        "the broker closed the channel: 406 PRECONDITION_FAILED",
    ),
    "connection closed": (
        marshal(commands.Connection.Close(320, "CONNECTION_FORCED", 0, 0), 0),
        "the broker closed the connection: 320 CONNECTION_FORCED",
    ),
    "consumer cancelled": (
        marshal(commands.Basic.Cancel(CONSUMER, True), CHANNEL),
        "the broker cancelled the consumer",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_ends_the_consumer_is_noticed_at_once_and_passed_on(ending):
    frame, reason = ENDINGS[ending]
    cutter = a_cutter()

    assert cutter.feed(frame) == ([], frame)
    assert cutter.ending == reason


@pytest.mark.parametrize(
    "frame",
    [
        marshal(commands.Channel.Close(404, "NOT_FOUND", 50, 10), 2),
        marshal(commands.Basic.Cancel("somebody", True), CHANNEL),
        marshal(commands.Basic.CancelOk(CONSUMER), CHANNEL),
    ],
)
def test_what_ends_something_else_is_not_an_ending(frame):
    cutter = a_cutter()

    cutter.feed(frame)

    assert cutter.ending is None


def raw_frame(kind: int, payload: bytes, channel: int = CHANNEL) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


WRONG_STREAMS = {
    "unknown frame type": raw_frame(7, b"x"),
    "unknown frame type elsewhere": raw_frame(7, b"x", channel=9),
    "unknown frame type, incomplete": raw_frame(7, b"x" * 99)[:20],
    "frame too long": struct.pack(">BHI", 1, CHANNEL, 1 << 21) + b"x",
    "frame too long elsewhere": struct.pack(">BHI", 2, 5, 1 << 21) + b"x",
    "header without deliver": content(b"")[0],
    "body without deliver": content(b"body")[1],
    "body without header": deliver(1) + content(b"body")[1],
    "deliver within a delivery": deliver(1) + deliver(2),
    "method within a body": deliver(1) + content(b"body")[0] + QOS_OK,
    "header too short": deliver(1) + raw_frame(2, b"\x00\x3c\x00\x00"),
    "header of another class": deliver(1) + raw_frame(2, struct.pack(">HHQH", 50, 0, 0, 0)),
    "body too long": deliver(1) + content(b"body")[0] + marshal(ContentBody(b"bodybody"), CHANNEL),
    "discarded body too long": (
        deliver(1)
        + raw_frame(2, struct.pack(">HHQH", 60, 0, LONGEST_BODY_BYTES + 1, 0))
        + struct.pack(">BHI", 3, CHANNEL, LONGEST_BODY_BYTES + 2)
        + b"xx"
    ),
    "deliver cut short": raw_frame(1, struct.pack(">HH", 60, 60) + b"\x06worker" + b"\0" * 8),
    "deliver running over": raw_frame(
        1, struct.pack(">HH", 60, 60) + b"\x06worker" + b"\0" * 7 + b"\1\0\0\0more"
    ),
    "tag 0": deliver(0),
    "tag twice": b"".join(message(1, b"")) + deliver(1),
}


@pytest.mark.parametrize("wrong", WRONG_STREAMS)
def test_bytes_that_amqp_does_not_allow_are_a_protocol_error(wrong):
    with pytest.raises(ProtocolError):
        a_cutter().feed(WRONG_STREAMS[wrong])


@settings(max_examples=300)
@given(st.data())
def test_damage_gives_no_delivery_that_was_not_sent(data):
    bodies = [b"one", b"", b"three" * 300]
    stream = bytearray(b"".join(frame for n, body in enumerate(bodies) for frame in message(n + 1, body)))
    at = data.draw(st.integers(0, len(stream) - 1))
    intact, _ = a_cutter().feed(bytes(stream[:at]))
    stream[at] = data.draw(st.integers(0, 255))
    cutter = a_cutter()

    try:
        deliveries, _ = cutter.feed(bytes(stream))
    except ProtocolError:
        return

    # What lies before the damage is as it was, and every body has the size its header gave.
    assert deliveries[: len(intact)] == intact
    assert all(len(delivery.body) == stated_bytes(delivery) for delivery in deliveries)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_garbage_gives_no_delivery(garbage, cuts):
    cutter = a_cutter()

    try:
        deliveries, rest = feed_in_pieces(cutter, garbage, [cut for cut in cuts if cut <= len(garbage)])
    except ProtocolError:
        return

    assert deliveries == []
    assert garbage.startswith(rest)


@given(st.integers(0, 400))
def test_a_truncated_stream_waits_for_the_rest(length):
    stream = b"".join([*message(1, b"one"), HEARTBEAT, *message(2, b"two" * 50)])
    cutter = a_cutter()

    first, first_rest = cutter.feed(stream[:length])
    second, second_rest = cutter.feed(stream[length:])

    assert [delivery.body for delivery in first + second] == [b"one", b"two" * 50]
    assert first_rest + second_rest == HEARTBEAT


class FakeTransport(asyncio.Transport):
    """Remembers what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


class Tapped:
    """A tap between a fake connection and the reader behind it, with what it told."""

    def __init__(self, sink=None) -> None:
        loop = asyncio.get_running_loop()
        self.now_s = 1000.0
        self.received: list[Delivery] = []
        self.endings: list[str] = []
        self.reader = asyncio.StreamReader(loop=loop)
        self.transport = FakeTransport()
        self.tap = DeliveryTap(self.reader, loop)
        self.tap._clock = lambda: self.now_s
        self.tap.connection_made(self.transport)
        self.sink = sink or self.received.extend

    def watch(self) -> None:
        self.tap.watch(CHANNEL, CONSUMER, sink=self.sink, on_ended=self.endings.append)

    def passed_on(self) -> bytes:
        return bytes(self.reader._buffer)


async def test_the_tap_hands_deliveries_on_and_gives_the_rest_to_the_reader():
    tapped = Tapped()
    tapped.watch()

    tapped.tap.data_received(b"".join([QOS_OK, *message(1, b"body")]))

    assert [delivery.body for delivery in tapped.received] == [b"body"]
    assert tapped.passed_on() == QOS_OK


async def test_while_only_deliveries_come_the_reader_gets_a_heartbeat_now_and_then():
    tapped = Tapped()
    tapped.watch()

    for tag in range(1, 11):
        tapped.now_s += HEARTBEAT_INTERVAL_S / 4
        tapped.tap.data_received(b"".join(message(tag, b"body")))

    assert tapped.passed_on() == HEARTBEAT * 2


async def test_no_heartbeat_is_added_to_what_the_broker_says_before_consuming():
    tapped = Tapped()

    tapped.now_s += HEARTBEAT_INTERVAL_S
    tapped.tap.data_received(QOS_OK[:3])

    assert tapped.passed_on() == b""


async def test_the_end_is_told_once_and_nothing_is_handed_on_after_it():
    tapped = Tapped()
    tapped.watch()
    cancel = ENDINGS["consumer cancelled"][0]

    tapped.tap.data_received(b"".join([*message(1, b"in the same read"), cancel]))
    tapped.tap.data_received(b"".join(message(2, b"later")))
    tapped.tap.eof_received()
    tapped.tap.connection_lost(None)

    assert tapped.endings == ["the broker cancelled the consumer"]
    assert tapped.received == []


async def test_a_connection_lost_before_it_is_watched_is_told_at_once():
    tapped = Tapped()
    tapped.tap.connection_lost(OSError("reset"))

    tapped.watch()

    assert tapped.endings == ["the connection was lost: reset"]


async def test_a_protocol_error_drops_the_connection():
    tapped = Tapped()
    tapped.watch()

    tapped.tap.data_received(b"garbage!")

    assert tapped.transport.aborted
    assert tapped.endings == ["the broker sent what is not AMQP: unknown frame type 103"]


async def test_a_failing_sink_drops_the_connection_and_is_reported():
    def fail(deliveries):
        raise LookupError("a fault of the program")

    tapped = Tapped(sink=fail)
    tapped.watch()

    with pytest.raises(LookupError):
        tapped.tap.data_received(b"".join(message(1, b"body")))

    assert tapped.transport.aborted
    assert tapped.endings == ["taking deliveries failed: LookupError('a fault of the program')"]


@given(
    st.lists(st.integers(1, 2**63 - 1), max_size=3),
    st.none() | st.integers(1, 2**63 - 1),
    st.lists(st.integers(1, 2**63 - 1), max_size=3),
)
def test_a_settlement_is_rejects_then_acknowledgements(rejects, ack_up_to, acks):
    expected = [commands.Basic.Reject(tag, requeue=False) for tag in rejects]
    expected += [commands.Basic.Ack(ack_up_to, multiple=True)] if ack_up_to else []
    expected += [commands.Basic.Ack(tag) for tag in acks]

    frames = encode_settlement(Settlement(rejects=rejects, ack_up_to=ack_up_to, acks=acks), CHANNEL)

    decoded = []
    while frames:
        consumed, channel, frame = unmarshal(frames)
        assert channel == CHANNEL
        decoded.append((type(frame), dict(frame)))
        frames = frames[consumed:]
    assert decoded == [(type(frame), dict(frame)) for frame in expected]
