"""The properties of a dead letter, put together from the bytes of the original's."""

from __future__ import annotations

import datetime
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from configcache.wire import Properties, Reason
from configcache_worker.core.ports import Delivery, Letter
from configcache_worker.rabbitmq.copies import MAX_PROPERTIES_BYTES, encode_letter
from configcache_worker.rabbitmq.reading import Envelope

NOW_MS = 1_700_000_000_123
NO_PROPERTIES = struct.pack(">HHQH", 60, 0, 0, 0)


def a_letter(
    header: bytes = NO_PROPERTIES,
    *,
    detail: str = "the body is not JSON",
    exchange: bytes = b"configuration",
    routing_key: bytes = b"key",
) -> Letter:
    envelope = Envelope(False, exchange, routing_key, header)
    return Letter(Delivery(1, b"body", Properties(), False, None, 4, envelope), Reason.INVALID_JSON, detail)


def encoded(letter: Letter) -> bytes | None:
    return encode_letter(letter, message_id="fresh", now_ms=NOW_MS)


def read(properties: bytes | None) -> Basic.Properties:
    assert properties is not None
    content = ContentHeader()
    content.unmarshal(NO_PROPERTIES[:12] + properties)
    return content.properties


def buried(**properties: object) -> Basic.Properties:
    """What becomes of a message with *properties*."""
    return read(encoded(a_letter(ContentHeader(properties=Basic.Properties(**properties)).marshal())))


def test_a_bare_message_gets_the_reason_and_where_it_came_from():
    properties = read(encoded(a_letter()))

    assert properties.headers == {
        "dead-letter-reason": "invalid-json",
        "dead-letter-detail": "the body is not JSON",
        "dead-lettered-at": NOW_MS,
        "original-exchange": "configuration",
        "original-routing-key": "key",
    }
    assert (properties.message_id, properties.delivery_mode) == ("fresh", 2)


def test_what_would_act_on_the_copy_moves_to_headers():
    properties = buried(
        message_id="old", user_id="somebody", expiration="1000", headers={"CC": ["a"], "BCC": ["b"]}
    )

    assert (properties.message_id, properties.user_id, properties.expiration) == ("fresh", None, None)
    moved = {key: value for key, value in properties.headers.items() if key.startswith("original-")}
    assert moved == {
        "original-exchange": "configuration",
        "original-routing-key": "key",
        "original-message-id": "old",
        "original-user-id": "somebody",
        "original-expiration": "1000",
        "original-CC": ["a"],
        "original-BCC": ["b"],
    }


def test_everything_else_is_copied():
    original = {
        "content_type": "text/plain",
        "content_encoding": "gzip",
        "priority": 7,
        "correlation_id": "c",
        "reply_to": "r",
        "timestamp": datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
        "message_type": "T",
        "app_id": "a",
    }

    properties = buried(**original, delivery_mode=1)

    assert {name: getattr(properties, name) for name in original} == original
    assert properties.delivery_mode == 2


def test_a_direct_reply_to_address_moves_because_publishing_with_it_would_close_the_channel():
    properties = buried(reply_to="amq.rabbitmq.reply-to")

    assert properties.reply_to is None
    assert properties.headers["original-reply-to"] == "amq.rabbitmq.reply-to"


def test_headers_are_copied_byte_by_byte():
    # A double, an invalid UTF-8 string and a nested table: the library would change the first and refuse the
    # second.
    fields = b"\x01dd" + struct.pack(">d", 1e300) + b"\x01sS\0\0\0\2\xff\xfe" + b"\x01tF\0\0\0\3\x01nV"
    header = NO_PROPERTIES[:12] + b"\x20\x00" + struct.pack(">I", len(fields)) + fields

    properties = encoded(a_letter(header))

    assert properties is not None
    assert fields in properties


def test_the_headers_of_an_earlier_burial_are_replaced():
    properties = buried(
        headers={
            "dead-letter-reason": "forged",
            "original-message-id": "forged",
            "x-death": [{"count": 1}],
            "k": "v",
        }
    )

    assert properties.headers["dead-letter-reason"] == "invalid-json"
    assert "original-message-id" not in properties.headers
    assert (properties.headers["x-death"], properties.headers["k"]) == ([{"count": 1}], "v")


def test_a_long_detail_is_cut_between_characters():
    properties = read(encoded(a_letter(detail="x" + "ü" * 1000)))

    assert properties.headers["dead-letter-detail"] == "x" + "ü" * 511


def test_a_lone_surrogate_in_the_detail_does_no_harm():
    assert read(encoded(a_letter(detail="\ud800"))).headers["dead-letter-detail"] == "?"


def test_names_that_are_not_utf_8_are_kept():
    properties = read(encoded(a_letter(exchange=b"\xff", routing_key=b"\xfe" * 255)))

    assert properties.headers["original-exchange"] == b"\xff"
    assert properties.headers["original-routing-key"] == b"\xfe" * 255


@pytest.mark.parametrize(
    "header",
    [
        ContentHeader(properties=Basic.Properties(headers={"a": "x" * MAX_PROPERTIES_BYTES})).marshal(),
        NO_PROPERTIES[:12] + b"\x20\x00\x00\x00\x00\x03\x01a?",
        NO_PROPERTIES[:12] + b"\x00\x01\x00\x00",
        NO_PROPERTIES[:12] + b"\x80\x00\xff",
    ],
    ids=["too long", "a header of an unknown type", "unknown flags", "truncated"],
)
def test_what_cannot_be_encoded_is_none(header):
    assert encoded(a_letter(header)) is None


def test_as_much_as_fits_is_encoded():
    overhead = (
        len(
            encoded(a_letter(ContentHeader(properties=Basic.Properties(headers={"a": "x"})).marshal())) or b""
        )
        - 1
    )
    fitting = "x" * (MAX_PROPERTIES_BYTES - overhead)

    assert len(encoded_with_header(fitting) or b"") == MAX_PROPERTIES_BYTES
    assert encoded_with_header(fitting + "x") is None


def encoded_with_header(text: str) -> bytes | None:
    return encoded(a_letter(ContentHeader(properties=Basic.Properties(headers={"a": text})).marshal()))


@given(st.binary(max_size=80), st.text(max_size=30), st.binary(max_size=9))
def test_whatever_the_original_the_copy_can_be_read_or_is_none(properties, detail, exchange):
    letter = a_letter(NO_PROPERTIES[:12] + properties, detail=detail, exchange=exchange)

    copy = encoded(letter)

    assert copy is None or b"dead-letter-reason" in copy
