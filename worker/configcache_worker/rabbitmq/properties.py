"""
Read message properties off the wire, without trusting them.

Pure. A delivery's properties may be anything a publisher managed to get past the broker, also what the AMQP
library cannot decode: a timestamp in microseconds, an id that is not UTF-8. The library's decoder, pamqp, is
the authority on which these are, since other consumers of the same queues meet the same bytes through it. But
it takes four times as long as a walk over the bytes for a usual message, and a tenth of a second for a
hostile one, as it copies the rest of the table for every field. The walk therefore answers wherever the
answer is plain, and only asks pamqp about shapes that no ordinary client sends.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Collection, Iterator

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from configcache.wire import Properties

_FLAGS = struct.Struct(">H")
_FLAGS_AT = 12  # after class, weight and body size
_PROPERTIES_AT = _FLAGS_AT + _FLAGS.size
_MORE_FLAGS = 0x0001

_SHORT_STRING, _TABLE, _OCTET, _TIMESTAMP = "short string", "table", "octet", "timestamp"
LAYOUT = (
    (0x8000, "content_type", _SHORT_STRING),
    (0x4000, "content_encoding", _SHORT_STRING),
    (0x2000, "headers", _TABLE),
    (0x1000, "delivery_mode", _OCTET),
    (0x0800, "priority", _OCTET),
    (0x0400, "correlation_id", _SHORT_STRING),
    (0x0200, "reply_to", _SHORT_STRING),
    (0x0100, "expiration", _SHORT_STRING),
    (0x0080, "message_id", _SHORT_STRING),
    (0x0040, "timestamp", _TIMESTAMP),
    (0x0020, "type", _SHORT_STRING),
    (0x0010, "user_id", _SHORT_STRING),
    (0x0008, "app_id", _SHORT_STRING),
    (0x0004, "cluster_id", _SHORT_STRING),
)
"""The flag, name and encoding of each property, in the order of the wire."""

_FIXED_PROPERTY_BYTES = {_OCTET: 1, _TIMESTAMP: 8}
_DECISIVE = frozenset({"content_type", "content_encoding", "type"})
_IDS = frozenset({"message_id", "correlation_id"})
"""What differs in every message of a producer."""

_LENGTH = struct.Struct(">I")
_SECONDS = struct.Struct(">Q")
_FIXED_BYTES = {
    ord(kind): size
    for kind, size in zip("tbBsuIilLfdDTV\0", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0, 0), strict=True)
}
_LENGTH_PREFIXED = frozenset(b"SxAF")
_INTEGERS = frozenset(b"bBsuIilL")
_TABLE_VALUE, _ARRAY_VALUE, _TIMESTAMP_VALUE, _TEXT_VALUE = b"FATS"

# The end of the year 9999 in milliseconds: pamqp understands what does not fit 32 bits of seconds like that.
_LATEST_SAFE_TIMESTAMP = 253_402_300_799_000
_LOW_HALF = 0xFFFF_FFFF
_DEEPEST_VOUCHED_FOR = 16


class UnreadableProperties(ValueError):
    """pamqp cannot decode them. The text says which, and never repeats their content."""


class MalformedTable(ValueError):
    """The bytes are not the AMQP field table that they should be."""


def scan(header: bytes) -> Properties:
    """
    Read the properties that decide how the body is read, and make sure that all the others can be decoded.

    Args:
        header: Payload of a content header frame.

    Raises:
        UnreadableProperties: Exactly when pamqp cannot decode *header*.
    """
    try:
        return _walk(header)
    except (MalformedTable, struct.error, IndexError):
        found = decode(header)
        return Properties(found.content_type, found.content_encoding, found.message_type)


def decode(header: bytes) -> Basic.Properties:
    """
    Decode all properties, which takes pamqp its time.

    Raises:
        UnreadableProperties: It cannot.
    """
    content = ContentHeader()
    try:
        content.unmarshal(header)
    except Exception as error:  # whatever it is, it would have ended a plain consumer's connection
        raise UnreadableProperties(f"properties that cannot be decoded ({type(error).__name__})") from error
    return content.properties


def split(header: bytes) -> dict[str, bytes]:
    """
    The properties that are there, by the names of :data:`LAYOUT`, each as the bytes that encode it.

    Raises:
        MalformedTable: A property reaches over the end, or there are flags that AMQP 0-9-1 does not define.
    """
    try:
        flags = _FLAGS.unpack_from(header, _FLAGS_AT)[0]
        spans = [(name, *span) for (name, _), span in zip(_layout(flags), _spans(header, flags), strict=True)]
    except (struct.error, IndexError) as error:
        raise MalformedTable("truncated") from error
    return {name: header[start:end] for name, start, end in spans}


def free_spans(header: bytes) -> list[tuple[int, int, bool]]:
    """
    Where *header* may differ, its length apart, and would still be read as it is.

    Args:
        header: Payload of a content header frame that :func:`scan` can read.

    Returns:
        Start, end, and whether what stands between must be ASCII; in order. Anything else may be any bytes.

    Raises:
        MalformedTable: It is of no ordinary shape, although it can be read.
    """
    try:
        flags = _FLAGS.unpack_from(header, _FLAGS_AT)[0]
        spans = zip(_layout(flags), _spans(header, flags), strict=True)
        return [free for (name, _), span in spans for free in _free_within(header, name, *span)]
    except (struct.error, IndexError) as error:
        raise MalformedTable("truncated") from error


def _free_within(header: bytes, name: str, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    if name in _IDS:
        yield start + 1, end, True
    elif name == "headers":
        yield from _free_values(header, start, end)
    elif name == "timestamp" and _SECONDS.unpack_from(header, start)[0] | _LOW_HALF <= _LATEST_SAFE_TIMESTAMP:
        yield start + 4, end, False


def _free_values(header: bytes, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    position = start + _LENGTH.size
    while position < end:
        value_at = position + 1 + header[position]
        position = _value_end(header, value_at, end)
        if header[value_at] in _INTEGERS:
            yield value_at + 1, position, False
        elif header[value_at] == _TEXT_VALUE:
            yield value_at + 1 + _LENGTH.size, position, False


def fields(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """
    The fields of an encoded *table*: each key, and the value with its type octet.

    Args:
        table: With its four length octets.

    Raises:
        MalformedTable: A field reaches over the end, or has an unknown type.
    """
    try:
        end = _end(table)
        position = _LENGTH.size
        while position < end:
            value_at = position + 1 + table[position]
            value_end = _value_end(table, value_at, end)
            yield table[position + 1 : value_at], table[value_at:value_end]
            position = value_end
    except (struct.error, IndexError) as error:
        raise MalformedTable("truncated") from error


def _end(encoded: bytes) -> int:
    """Where a table or an array ends, by the length that it begins with."""
    end: int = _LENGTH.size + _LENGTH.unpack_from(encoded)[0]
    if end > len(encoded):
        raise MalformedTable("truncated")
    return end


def items(array: bytes) -> Iterator[bytes]:
    """
    The values of an encoded *array*, each with its type octet.

    Args:
        array: With its four length octets.

    Raises:
        MalformedTable: A value reaches over the end, or has an unknown type.
    """
    try:
        end = _end(array)
        position = _LENGTH.size
        while position < end:
            value_end = _value_end(array, position, end)
            yield array[position:value_end]
            position = value_end
    except (struct.error, IndexError) as error:
        raise MalformedTable("truncated") from error


def delivery_count(header: bytes) -> int:
    """How often the broker counted this message as returned (``x-delivery-count``), 0 if it does not say."""
    return _integer_header(header, b"x-delivery-count") or 0


def published_ms(header: bytes) -> int | None:
    """When this message was published, in Unix milliseconds, as its producer says in ``published-at``; None if it doesn't."""
    return _integer_header(header, b"published-at")


def text_headers(header: bytes, names: Collection[str]) -> dict[str, str]:
    """Those of the headers *names* that are there and are text in ASCII."""
    try:
        table = split(header).get("headers")
        found = {key.decode("latin-1"): value for key, value in fields(table) if value} if table else {}
    except MalformedTable:
        return {}
    start = 1 + _LENGTH.size
    return {
        name: value[start:].decode()
        for name in names
        if (value := found.get(name)) and value[0] == _TEXT_VALUE and value[start:].isascii()
    }


def _integer_header(header: bytes, name: bytes) -> int | None:
    """The value of the header *name*, read as a number without a sign; None where it is no integer, or not there."""
    try:
        table = split(header).get("headers")
        for key, value in fields(table) if table else ():
            if key == name and value[0] in _INTEGERS:
                return int.from_bytes(value[1:])
    except MalformedTable:
        return None
    return None


def _walk(header: bytes) -> Properties:
    """
    Read *header* if it is of an ordinary shape.

    One loop with few helpers, since every delivery comes through it.

    Raises:
        UnreadableProperties: It is not, and pamqp would say the same.
        MalformedTable, struct.error, IndexError: It is not, and pamqp may see it differently.
    """
    decisive: dict[str, bytes] = {}
    start = _PROPERTIES_AT
    length = len(header)
    for name, encoding in _layout(header[_FLAGS_AT] << 8 | header[_FLAGS_AT + 1]):
        if encoding is _SHORT_STRING:
            end = start + 1 + header[start]
            text = header[start + 1 : end]
            if end > length:
                raise MalformedTable("truncated")
            if name in _DECISIVE:
                decisive[name] = text
            elif not text.isascii():
                _check_utf8(text, name)
        elif encoding is _TABLE:
            end = start + _LENGTH.size + _LENGTH.unpack_from(header, start)[0]
            if end > length:
                raise MalformedTable("truncated")
            _check_table(header, start, end, 0)
        elif encoding is _OCTET:
            end = start + 1
        else:
            end = start + _SECONDS.size
            _check_timestamp(header, start)
        start = end
    if start > length:
        raise MalformedTable("truncated")
    return _properties(decisive.get("content_type"), decisive.get("content_encoding"), decisive.get("type"))


@functools.lru_cache(maxsize=256)
def _properties(
    content_type: bytes | None, content_encoding: bytes | None, type_: bytes | None
) -> Properties:
    """One object for all messages with the same three, which are nearly all messages."""
    return Properties(
        content_type=_text(content_type, "content_type"),
        content_encoding=_text(content_encoding, "content_encoding"),
        type=_text(type_, "type"),
    )


def _text(encoded: bytes | None, name: str) -> str | None:
    if encoded is None:
        return None
    _check_utf8(encoded, name)
    return encoded.decode()


@functools.lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[str, str], ...]:
    """Name and encoding of the properties that *flags* announces."""
    if flags & _MORE_FLAGS:
        raise MalformedTable("flags that AMQP 0-9-1 does not define")
    return tuple((name, encoding) for flag, name, encoding in LAYOUT if flags & flag)


def _spans(header: bytes, flags: int) -> list[tuple[int, int]]:
    """Where each announced property begins and ends, its length octets included."""
    spans = []
    start = _PROPERTIES_AT
    for _, encoding in _layout(flags):
        if encoding is _SHORT_STRING:
            end = start + 1 + header[start]
        elif encoding is _TABLE:
            end = start + _LENGTH.size + _LENGTH.unpack_from(header, start)[0]
        else:
            end = start + _FIXED_PROPERTY_BYTES[encoding]
        spans.append((start, end))
        start = end
    if start > len(header):
        raise MalformedTable("truncated")
    return spans


def _value_end(data: bytes, value_at: int, end: int) -> int:
    """Where the field value whose type octet is at *value_at* ends; not after *end*."""
    kind = data[value_at]
    size = _FIXED_BYTES.get(kind)
    if size is None:
        if kind not in _LENGTH_PREFIXED:
            raise MalformedTable("a value of an unknown type")
        size = _LENGTH.size + _LENGTH.unpack_from(data, value_at + 1)[0]
    value_end: int = value_at + 1 + size
    if value_end > end:
        raise MalformedTable("truncated")
    return value_end


def _check_table(data: bytes, start: int, end: int, depth: int) -> None:
    """Check the keys and values of the table whose length octets are at *start*, nested ones included."""
    position = start + _LENGTH.size
    while position < end:
        value_at = position + 1 + data[position]
        position += 1
        value_end = _value_end(data, value_at, end)
        key = data[position:value_at]
        if not key.isascii():
            _check_utf8(key, "a header's name")
        _check_value(data, value_at, value_end, depth)
        position = value_end


def _check_array(data: bytes, start: int, end: int, depth: int) -> None:
    position = start + _LENGTH.size
    while position < end:
        value_end = _value_end(data, position, end)
        _check_value(data, position, value_end, depth)
        position = value_end


def _check_value(data: bytes, value_at: int, value_end: int, depth: int) -> None:
    kind = data[value_at]
    if kind in (_TABLE_VALUE, _ARRAY_VALUE):
        if depth == _DEEPEST_VOUCHED_FOR:
            raise MalformedTable("nested deeply")
        check = _check_table if kind == _TABLE_VALUE else _check_array
        check(data, value_at + 1, value_end, depth + 1)
    elif kind == _TIMESTAMP_VALUE:
        _check_timestamp(data, value_at + 1)


def _check_timestamp(data: bytes, start: int) -> None:
    if _SECONDS.unpack_from(data, start)[0] > _LATEST_SAFE_TIMESTAMP:
        raise MalformedTable("a timestamp far away")


def _check_utf8(text: bytes, name: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise UnreadableProperties(f"{name} is not UTF-8") from None
