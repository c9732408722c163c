"""Deliveries of a known shape are read as they would be frame by frame."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from configcache.wire import Reason
from configcache_worker.rabbitmq import frames
from configcache_worker.rabbitmq.frames import DeliveryCutter, ProtocolError

CHANNEL, CONSUMER = 1, "worker"
NOON = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)
ID = "5f0c0ea5c1b94b5c9a1f0c9d3b6f2a11"


class FrameByFrame(DeliveryCutter):
    """Knows no shapes."""

    def _cut_known(self, data, position):
        return position


def watching(cutter):
    cutter.watch(CHANNEL, CONSUMER)
    return cutter


def message(tag, *, body=b'{"AssociateId":1}', redelivered=False, key="key", **properties):
    return b"".join(
        [
            marshal(commands.Basic.Deliver(CONSUMER, tag, redelivered, "configuration", key), CHANNEL),
            marshal(
                ContentHeader(body_size=len(body), properties=commands.Basic.Properties(**properties)),
                CHANNEL,
            ),
            marshal(ContentBody(body), CHANNEL),
        ]
    )


ids = st.sampled_from([ID, ID[::-1], "é" * 16, "short"])
headers = st.fixed_dictionaries(
    {"published-at": st.integers(2**31, 2**50)},
    optional={
        "traceparent": st.sampled_from(["00-" + "a" * 52, "00-" + "b" * 52]),
        "x-delivery-count": st.integers(0, 12),
        "nested": st.just({"at": NOON}),
    },
)
messages = st.fixed_dictionaries(
    {"body": st.binary(min_size=1, max_size=40)},
    optional={
        "redelivered": st.booleans(),
        "key": st.sampled_from(["key", "other"]),
        "message_id": ids,
        "correlation_id": ids,
        "content_type": st.sampled_from(["application/json", "application/xml"]),
        "timestamp": st.sampled_from([NOON, NOON + datetime.timedelta(days=3)]),
        "headers": headers,
    },
)


@settings(max_examples=300)
@given(st.lists(messages, max_size=8))
def test_a_stream_of_like_and_unlike_messages_is_read_as_frame_by_frame(given_messages):
    stream = b"".join(message(tag, **each) for tag, each in enumerate(given_messages * 2, 1))

    by_shape = watching(DeliveryCutter()).feed(stream)

    assert by_shape == watching(FrameByFrame()).feed(stream)


@settings(max_examples=500)
@given(st.data())
def test_damage_to_a_message_of_a_known_shape_is_seen_as_frame_by_frame(data):
    learned, damaged = (
        message(tag, message_id=ID, timestamp=NOON, headers={"published-at": 2**40 + tag, "trace": "a" * 55})
        for tag in (1, 2)
    )
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged = damaged[:at] + data.draw(st.binary(min_size=1, max_size=1)) + damaged[at + 1 :]

    assert outcome(DeliveryCutter(), learned + damaged) == outcome(FrameByFrame(), learned + damaged)


def outcome(cutter, stream):
    try:
        return watching(cutter).feed(stream)
    except ProtocolError:
        return "not AMQP"


def test_messages_of_one_producer_are_not_taken_apart_one_by_one(monkeypatch):
    read = []
    monkeypatch.setattr(frames, "read", lambda *parts: read.append(parts) or original(*parts))
    stream = b"".join(
        message(tag, message_id=f"{tag:032x}", headers={"published-at": 2**40 + tag}) for tag in range(1, 101)
    )

    deliveries, _ = watching(DeliveryCutter()).feed(stream)

    assert [delivery.tag for delivery in deliveries] == list(range(1, 101))
    assert len(read) == 1


original = frames.read


def test_messages_of_several_producers_are_known_after_a_while(monkeypatch):
    read = []
    monkeypatch.setattr(frames, "read", lambda *parts: read.append(parts) or original(*parts))
    stream = b"".join(message(tag, app_id=f"producer {tag % 3}") for tag in range(1, 301))

    watching(DeliveryCutter()).feed(stream)

    assert len(read) <= 1 + 2 * (frames._UNKNOWN_BETWEEN_SHAPES + 1) * 3


def test_an_id_that_is_not_utf_8_is_refused_in_a_known_shape_too():
    stream = message(1, message_id=ID) + message(2, message_id=ID).replace(ID.encode(), b"\xff" * 32)

    deliveries, _ = watching(DeliveryCutter()).feed(stream)

    assert [delivery.refusal for delivery in deliveries] == [None, Reason.UNREADABLE_PROPERTIES]


def test_a_shape_costs_those_that_are_not_of_it_little(monkeypatch):
    costly = message(1, headers={f"h{number}": number for number in range(200)})
    cutter = watching(DeliveryCutter())

    cutter.feed(costly)

    assert cutter._shapes == []


@pytest.mark.parametrize("size", [0, frames.LONGEST_BODY_BYTES + 1])
def test_a_body_that_is_none_for_the_long_way_is_none_for_the_short_one(size):
    learned, other = message(1, message_id=ID), bytearray(message(2, message_id=ID, body=b"x" * max(size, 1)))
    if not size:  # a content header that announces nothing, and an empty body frame all the same
        other = bytearray(message(2, message_id=ID, body=b"x"))
        at = other.rindex(b"\x03\x00\x01\x00\x00\x00\x01x\xce")
        other[at:] = b"\x03\x00\x01\x00\x00\x00\x00\xce"
        header_at = other.index(b"\xce\x02\x00\x01") + 8 + 4
        other[header_at : header_at + 8] = bytes(8)

    assert outcome(DeliveryCutter(), learned + bytes(other)) == outcome(
        FrameByFrame(), learned + bytes(other)
    )


def test_a_tag_that_does_not_rise_is_no_amqp_in_a_known_shape_too():
    with pytest.raises(ProtocolError, match="delivery tag 1 after 1"):
        watching(DeliveryCutter()).feed(message(1) + message(1))


def test_what_is_not_ours_passes_between_messages_of_a_known_shape():
    qos_ok = marshal(commands.Basic.QosOk(), CHANNEL)

    deliveries, rest = watching(DeliveryCutter()).feed(
        qos_ok + message(1) + message(2) + qos_ok + message(3) + qos_ok[:-1]
    )

    assert [delivery.tag for delivery in deliveries] == [1, 2, 3]
    assert rest == qos_ok * 2
