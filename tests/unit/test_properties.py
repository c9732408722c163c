"""The walk over a message's properties, against pamqp, which decides what is readable."""

from __future__ import annotations

import datetime
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.header import ContentHeader

from configcache.wire import Properties
from configcache_worker.rabbitmq.properties import (
    MalformedTable,
    UnreadableProperties,
    delivery_count,
    fields,
    published_ms,
    scan,
    split,
)


def a_header(flags: int, properties: bytes) -> bytes:
    return struct.pack(">HHQH", 60, 0, 0, flags) + properties


def a_table(*encoded: bytes) -> bytes:
    joined = b"".join(encoded)
    return struct.pack(">I", len(joined)) + joined


def marshalled(**properties: object) -> bytes:
    return ContentHeader(properties=commands.Basic.Properties(**properties)).marshal()


def as_pamqp_sees_it(header: bytes) -> Properties | None:
    content = ContentHeader()
    try:
        content.unmarshal(header)
    except Exception:
        return None
    return Properties(
        content.properties.content_type, content.properties.content_encoding, content.properties.message_type
    )


def as_we_see_it(header: bytes) -> Properties | None:
    try:
        return scan(header)
    except UnreadableProperties:
        return None


def test_the_three_decisive_properties_are_read():
    header = marshalled(
        content_type="application/json", content_encoding="utf-8", message_type="Ünïcode", app_id="x"
    )

    assert scan(header) == Properties("application/json", "utf-8", "Ünïcode")


def test_absent_and_empty_properties_differ():
    assert scan(a_header(0, b"")) == Properties(None, None, None)
    assert scan(a_header(0x8000, b"\0")) == Properties("", None, None)


def test_equal_properties_are_one_object():
    header = marshalled(content_type="text/plain", message_id="1")

    assert scan(header) is scan(marshalled(content_type="text/plain", message_id="2"))


UNREADABLE = {
    "microseconds": a_header(0x0040, struct.pack(">Q", 1_700_000_000_000_000)),
    "far future": a_header(0x0040, struct.pack(">Q", 2**64 - 1)),
    "message id": a_header(0x0080, b"\x02\xff\xfe"),
    "content type": a_header(0x8000, b"\x02\xff\xfe"),
    "header name": a_header(0x2000, a_table(b"\x02\xff\xfeV")),
    "name in a nested table": a_header(0x2000, a_table(b"\x01tF" + a_table(b"\x01\xffV"))),
    "timestamp in a header": a_header(0x2000, a_table(b"\x01tT" + struct.pack(">Q", 2**63))),
    "timestamp in an array": a_header(0x2000, a_table(b"\x01aA" + a_table(b"T" + struct.pack(">Q", 2**63)))),
    "unknown type": a_header(0x2000, a_table(b"\x01x?")),
    "table over the end": a_header(0x2000, struct.pack(">I", 99)),
    "truncated timestamp": a_header(0x0040, b"\0\0"),
    "no flags": struct.pack(">HHQ", 60, 0, 0),
    "endless flags": struct.pack(">HHQ", 60, 0, 0) + b"\x00\x01" * 3,
    "nested too deeply": a_header(
        0x2000,
        b"".join(struct.pack(">I", 9_000 - 7 * n) + b"\x01nF" for n in range(1200)).ljust(9_004, b"\0"),
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_pamqp_cannot_decode_is_unreadable(case):
    assert as_pamqp_sees_it(UNREADABLE[case]) is None
    with pytest.raises(UnreadableProperties):
        scan(UNREADABLE[case])


@pytest.mark.parametrize("seconds", [0, 2**32, 1_700_000_000_000, 253_402_300_799_000, 253_402_300_799_999])
def test_timestamps_in_seconds_and_milliseconds_are_readable(seconds):
    header = a_header(0x0040, struct.pack(">Q", seconds))

    assert as_pamqp_sees_it(header) == scan(header) == Properties()


def test_the_text_of_the_error_does_not_repeat_the_content():
    with pytest.raises(UnreadableProperties) as raised:
        scan(a_header(0x0080, b"\x08secret\xff\xfe"))

    assert "secret" not in str(raised.value)


texts = st.text(max_size=20)
moments = st.integers(0, 4_000_000_000).map(
    lambda seconds: datetime.datetime.fromtimestamp(seconds, datetime.UTC)
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32)
    | st.decimals(-1000, 1000, places=2)
    | texts
    | st.binary(max_size=9).map(bytearray)
    | moments,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)
ordinary_headers = st.builds(
    marshalled,
    content_type=st.none() | texts,
    content_encoding=st.none() | texts,
    headers=st.none() | st.dictionaries(texts, values, max_size=4),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | texts,
    message_id=st.none() | texts,
    timestamp=st.none() | moments,
    message_type=st.none() | texts,
    user_id=st.none() | texts,
)


@given(ordinary_headers)
def test_ordinary_properties_are_read_as_pamqp_reads_them(header):
    assert as_we_see_it(header) == as_pamqp_sees_it(header) is not None


@settings(max_examples=500)
@given(st.data())
def test_damaged_properties_are_judged_as_pamqp_judges_them(data):
    header = bytearray(data.draw(ordinary_headers))
    for _ in range(data.draw(st.integers(1, 4))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(header[: data.draw(st.integers(0, len(header)))] if data.draw(st.booleans()) else header)

    assert as_we_see_it(damaged) == as_pamqp_sees_it(damaged)


@settings(max_examples=500)
@given(st.integers(0, 65_535), st.binary(max_size=80))
@example(0x8001, b"\0\0\x01x")
@example(0x8000, b"\x05ab")
def test_random_properties_are_judged_as_pamqp_judges_them(flags, properties):
    header = a_header(flags, properties)

    assert as_we_see_it(header) == as_pamqp_sees_it(header)


@given(ordinary_headers)
def test_properties_are_split_into_the_bytes_that_encode_them(header):
    found = split(header)

    assert b"".join(found.values()) == header[14:]


@given(st.dictionaries(texts, values, max_size=4))
def test_a_table_is_split_into_the_bytes_that_encode_it(table):
    encoded = split(marshalled(headers=table)).get("headers", a_table())

    pieces = [bytes([len(key)]) + key + value for key, value in fields(encoded)]

    assert a_table(*pieces) == encoded


@given(st.binary(max_size=60))
def test_splitting_garbage_gives_parts_of_it_or_malformed_table(garbage):
    try:
        pieces = [*split(garbage).values(), *(value for _, value in fields(garbage))]
    except MalformedTable:
        return

    assert all(piece in garbage for piece in pieces)


@pytest.mark.parametrize("count", [0, 10, 70_000, 2**40])
def test_the_brokers_delivery_count_is_read(count):
    assert delivery_count(marshalled(headers={"a": "b", "x-delivery-count": count})) == count


@pytest.mark.parametrize(
    "header", [a_header(0, b""), marshalled(headers={"x-delivery-count": "many"}), b"garbage"]
)
def test_no_delivery_count_is_zero(header):
    assert delivery_count(header) == 0


@pytest.mark.parametrize(
    ("value", "read"), [(1_700_000_000_000, 1_700_000_000_000), ("now", None), (1.5, None)]
)
def test_the_producers_time_of_publishing_is_read_where_it_is_an_integer(value, read):
    assert published_ms(marshalled(headers={"a": "b", "published-at": value})) == read
