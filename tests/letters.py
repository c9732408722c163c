"""Dead letters of a test's choice: as deliveries in memory, or planted in a broker's queue as a worker leaves them."""

from __future__ import annotations

import struct
import uuid

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from configcache.topology import DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY
from configcache.wire import Reason
from configcache_worker.core.ports import Letter
from configcache_worker.rabbitmq.copies import encode_letter
from configcache_worker.rabbitmq.post import Post
from configcache_worker.rabbitmq.reading import Envelope, read
from tests.raw import RawProperties, short

NOW_MS = 1_700_000_000_123
NO_ASSOCIATE = b'{"Application":"WebClient","Instance":"Web"}'
FOR_ALL = b'{"Application":"WebClient","Instance":"Web","ForAllAssociates":true}'
FOR_42 = b'{"Application":"WebClient","Instance":"Web","AssociateId":42}'

_CLASS_WEIGHT_SIZE = struct.Struct(">HHQ")


def header_of(body, properties):
    """The payload of a content header frame."""
    return _CLASS_WEIGHT_SIZE.pack(60, 0, len(body)) + properties


def a_delivery(body=b"", properties=None, *, tag=1, size=None):
    """A delivery of *body* from the dead-letter queue. A *size* above 1 MiB: nobody has kept the body."""
    encoded = (properties or Basic.Properties()).marshal()
    header = _CLASS_WEIGHT_SIZE.pack(60, 0, len(body) if size is None else size) + encoded
    envelope = Envelope(False, DEAD_LETTER_EXCHANGE.encode(), DEAD_LETTER_ROUTING_KEY.encode(), header)
    return read(tag, envelope, body if size is None else None)


def buried(
    body, reason=Reason.MISSING_ASSOCIATE, *, detail="a detail", message_id=None, now_ms=NOW_MS, **properties
):
    """The properties that a worker gives the dead letter of a message, with the letter's id."""
    original = ContentHeader(body_size=len(body), properties=Basic.Properties(**properties)).marshal()
    envelope = Envelope(False, b"configuration", b"clear-configuration-cache.v1", original)
    message_id = message_id or uuid.uuid4().hex
    letter = Letter(read(1, envelope, body), reason, detail)
    return message_id, RawProperties(encode_letter(letter, message_id=message_id, now_ms=now_ms))


def a_letter(body=NO_ASSOCIATE, reason=Reason.MISSING_ASSOCIATE, **options):
    """A delivery of what a worker has buried."""
    return a_delivery(body, buried(body, reason, **options)[1])


async def plant(url, *letters):
    """Put *letters*, each a body, an id and properties, into the dead-letter queue, in order."""
    async with Post(url, name="test", timeout_s=10, heartbeat_s=10) as post:
        for body, (message_id, properties) in letters:
            await post.publish(
                body,
                properties.marshal(),
                message_id=message_id,
                exchange=DEAD_LETTER_EXCHANGE,
                routing_key=DEAD_LETTER_ROUTING_KEY,
            )


def table(content):
    """An AMQP table of encoded fields."""
    return struct.pack(">I", len(content)) + content


def nested(depth):
    """A table in a table in a table …"""
    inner = b""
    for _ in range(depth):
        inner = short(b"t") + b"F" + table(inner)
    return table(inner)


HEADERS, MESSAGE_ID, TIMESTAMP, CORRELATION_ID, APP_ID = 1 << 13, 1 << 7, 1 << 6, 1 << 10, 1 << 3
"""Flags of AMQP basic properties."""


def raw(flags, encoded):
    """Properties as bytes."""
    return RawProperties(struct.pack(">H", flags) + encoded)


UNREADABLE = {
    "a timestamp in microseconds": raw(TIMESTAMP, struct.pack(">Q", 1_700_000_000_000_000)),
    "the last timestamp there is": raw(TIMESTAMP, b"\xff" * 8),
    "a message id that is not UTF-8": raw(MESSAGE_ID, short(b"\xff\xfe")),
    "a correlation id that is not UTF-8": raw(CORRELATION_ID, short(b"\xc3")),
    "a header's key that is not UTF-8": raw(HEADERS, table(short(b"\xff") + b"t\x01")),
    "tables nested ten thousand deep": raw(HEADERS, nested(10_000)),
    "a timestamp out of range in a header": raw(HEADERS, table(short(b"at") + b"T" + b"\x7f" * 8)),
}
"""Properties that end the connection of a plain consumer."""
