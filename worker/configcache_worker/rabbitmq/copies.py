"""
Put together the properties of what is published for a message, from the bytes of the message's own.

Pure. Whatever a publisher wrote is copied as it is, also values that the AMQP library would read and write differently.
What would act on the copy instead of describing it is moved to headers, or left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from configcache_worker.core.ports import Letter
from configcache_worker.rabbitmq.properties import LAYOUT, MalformedTable, fields, split
from configcache_worker.rabbitmq.reading import Envelope

USABLE_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,254}")
"""A message id that can be typed as it is, encoded."""
REPLAYED_HEADER: Final = "replayed"
"""How often a command has been replayed from the dead letters; absent on one that never was."""
MAX_DETAIL_BYTES: Final = 1024
MAX_PROPERTIES_BYTES: Final = 64 * 1024
"""
Half of what fits in a frame, since the broker adds headers of its own on every further way a dead letter
takes.
"""

_PERSISTENT: Final = b"\x02"
_LENGTH = struct.Struct(">I")
_FLAGS = struct.Struct(">H")
_NUMBER = struct.Struct(">q")

# Kept, these would act on the copy. A message id that occurs twice mixes up the results of publishes; a user
# id that is not ours closes the channel, as does a malformed CC or expiration; a good expiration lets the
# letter vanish, and a good CC sends copies elsewhere.
_MOVED_PROPERTIES: Final[tuple[str, ...]] = ("message_id", "user_id", "expiration")
_MOVED_HEADERS: Final = frozenset({b"CC", b"BCC"})
# Publishing with this very address asks for a consumer on the publishing channel, which is closed if there is
# none.
_DIRECT_REPLY_TO: Final = b"\x15amq.rabbitmq.reply-to"
LETTER_HEADERS: Final = frozenset(
    {
        b"dead-letter-reason",
        b"dead-letter-detail",
        b"dead-lettered-at",
        b"original-exchange",
        b"original-routing-key",
        b"original-message-id",
        b"original-user-id",
        b"original-expiration",
        b"original-reply-to",
        b"original-CC",
        b"original-BCC",
    }
)
"""The headers that a dead letter has of us."""

_REPLAYED: Final = REPLAYED_HEADER.encode()
_X_DEATH: Final = b"x-death"
_ORIGINAL: Final = b"original-"
_BROKERS_HEADER: Final = re.compile(rb"x-death|x-(first|last)-death-[a-z]+|x-delivery-count|x-acquired-count")
"""What the broker writes on messages that it dead-letters or hands out again."""


def encode_letter(letter: Letter, *, message_id: str, now_ms: int) -> bytes | None:
    """
    Put together the properties of the copy of *letter*: property flags and properties as on the wire.

    Args:
        letter: Its delivery's envelope is a :class:`~configcache_worker.rabbitmq.reading.Envelope`.
        message_id: The copy's; never used before.
        now_ms: Unix milliseconds.

    Returns:
        The encoded properties, or None: they do not fit :data:`MAX_PROPERTIES_BYTES`, or the original's are
        no AMQP.
    """
    envelope = letter.delivery.envelope
    assert isinstance(envelope, Envelope)
    try:
        properties = split(envelope.header)
        headers = [
            *_kept_headers(properties.get("headers")),
            *_our_headers(letter, envelope, properties, now_ms),
        ]
    except MalformedTable:
        return None
    for name in _moved_properties(properties):
        del properties[name]
    encoded = _persistent(properties, headers, message_id)
    return encoded if len(encoded) <= MAX_PROPERTIES_BYTES else None


def encode_command(
    header: bytes, *, message_id: str, replayed: int, instead: Mapping[str, str | None] | None = None
) -> bytes:
    """
    Put together the properties of a command that is published once more, from those of its dead letter.

    What the dead letter and the broker have added goes. So does what would act on the command: it was the first message's.

    Args:
        header: Payload of the dead letter's content header frame; one without properties will do.
        message_id: The command's; never used before.
        replayed: How often it will have been replayed.
        instead: Properties to replace by other texts, or to leave out.

    Raises:
        MalformedTable: The properties in *header* can't be told apart.
    """
    properties = split(header)
    dropped = LETTER_HEADERS | _MOVED_HEADERS | {_REPLAYED, _ORIGINAL + _X_DEATH}
    table = properties.get("headers")
    kept = [
        _short_string(key) + value
        for key, value in (fields(table) if table else ())
        if key not in dropped and not _BROKERS_HEADER.fullmatch(key)
    ]
    for name in [*_moved_properties(properties), "cluster_id"]:
        properties.pop(name, None)
    for name, text in (instead or {}).items():
        properties.pop(name, None)
        if text is not None:
            properties[name] = _short_string(text.encode())
    return _persistent(properties, [*kept, _number_header(_REPLAYED, replayed)], message_id)


def encode_imported(header: bytes, *, id_otherwise: str) -> tuple[str, bytes]:
    """
    Put together the properties of a dead letter that was exported, and comes back.

    They stay as they were but for what would act on the message (letters that the broker itself had dead-lettered may
    have such), and for the broker's own headers, which it takes from nobody: ``x-death`` becomes ``original-x-death``.

    Args:
        header: Payload of a content header frame with the exported properties.
        id_otherwise: The message's, if its own can't be typed; that becomes ``original-message-id``.

    Returns:
        The message's id, and its encoded properties.

    Raises:
        MalformedTable: The properties in *header* can't be told apart.
    """
    properties = split(header)
    own_id = properties.pop("message_id", b"\0")[1:]
    message_id = own_id.decode() if USABLE_ID.fullmatch(own_id) else id_otherwise
    table = properties.get("headers")
    kept = []
    for key, value in fields(table) if table else ():
        if key in _MOVED_HEADERS or key == _X_DEATH:
            kept.append(_short_string(_ORIGINAL + key) + value)
        elif not _BROKERS_HEADER.fullmatch(key):
            kept.append(_short_string(key) + value)
    if own_id and own_id != message_id.encode():
        kept.append(_text_header("original-message-id", own_id))
    moved = _moved_properties(properties)
    kept += [_text_header("original-" + name.replace("_", "-"), properties.pop(name)[1:]) for name in moved]
    return message_id, _persistent(properties, kept, message_id)


def _kept_headers(table: bytes | None) -> list[bytes]:
    """
    The original's headers, except those that mean what ours mean. What moved keeps its value under its new
    name.
    """
    kept = []
    for key, value in fields(table) if table else ():
        if key in _MOVED_HEADERS:
            kept.append(_short_string(b"original-" + key) + value)
        elif key not in LETTER_HEADERS:
            kept.append(_short_string(key) + value)
    return kept


def _our_headers(
    letter: Letter, envelope: Envelope, properties: dict[str, bytes], now_ms: int
) -> list[bytes]:
    detail = letter.detail.encode(errors="replace")[:MAX_DETAIL_BYTES].decode(errors="ignore")
    return [
        _text_header("dead-letter-reason", letter.reason.value.encode()),
        _text_header("dead-letter-detail", detail.encode()),
        _number_header(b"dead-lettered-at", now_ms),
        _text_header("original-exchange", envelope.exchange),
        _text_header("original-routing-key", envelope.routing_key),
        *(
            _text_header("original-" + name.replace("_", "-"), properties[name][1:])
            for name in _moved_properties(properties)
        ),
    ]


def _moved_properties(properties: dict[str, bytes]) -> list[str]:
    moved = [name for name in _MOVED_PROPERTIES if name in properties]
    if properties.get("reply_to") == _DIRECT_REPLY_TO:
        moved.append("reply_to")
    return moved


def _persistent(properties: dict[str, bytes], headers: Sequence[bytes], message_id: str) -> bytes:
    """*properties* of a persistent message with these *headers*, as on the wire."""
    table = b"".join(headers)
    return _joined(
        {
            **properties,
            "headers": _LENGTH.pack(len(table)) + table,
            "delivery_mode": _PERSISTENT,
            "message_id": _short_string(message_id.encode()),
        }
    )


def _joined(properties: dict[str, bytes]) -> bytes:
    present = [(flag, properties[name]) for flag, name, _ in LAYOUT if name in properties]
    return _FLAGS.pack(sum(flag for flag, _ in present)) + b"".join(encoded for _, encoded in present)


def _short_string(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _text_header(name: str, text: bytes) -> bytes:
    return _short_string(name.encode()) + b"S" + _LENGTH.pack(len(text)) + text


def _number_header(name: bytes, number: int) -> bytes:
    return _short_string(name) + b"l" + _NUMBER.pack(number)
