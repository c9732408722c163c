"""
A dead letter as an operator sees it: why it is here, whose it is, what happened to it.

Pure and total: properties are untrusted, so every value is taken for what it is or left out, and nothing is raised.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from configcache.wire import Reason
from configcache_worker.core.ports import Delivery
from configcache_worker.letters.text import printable
from configcache_worker.rabbitmq.copies import REPLAYED_HEADER, USABLE_ID
from configcache_worker.rabbitmq.properties import MalformedTable, UnreadableProperties, fields, scan, split
from configcache_worker.rabbitmq.reading import LONGEST_BODY_BYTES, Envelope
from configcache_worker.rabbitmq.values import Value, read_properties

UNKNOWN: Final = "unknown"
"""A producer that gave no name, or a letter that nobody has written a reason on."""
DELIVERY_LIMIT: Final = "delivery_limit"
"""The broker's own word: a command came back more often than the queue's limit allows."""

_REJECTED: Final = "rejected"
_WORD: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_HASH_DIGITS: Final = 16
_MOST_REPLAYED: Final = 1_000_000
"""Who says more is no operator of ours, and could say what fits into no header."""
_BODY_SIZE: Final = struct.Struct(">Q")
_BODY_SIZE_AT: Final = 4  # after class and weight
_PROPERTIES_AT: Final = 12
_LATEST_MS: Final = 253_402_300_799_999
COUNTERS: Final = frozenset({b"x-delivery-count", b"x-acquired-count"})
"""Headers in which the broker counts how often a letter was looked at: they are not the letter's own."""

_EXPLANATIONS: Final[Mapping[str, str]] = {
    DELIVERY_LIMIT: "it came back from workers more often than the queue's delivery limit allows",
    "expired": "it waited longer than a policy of the queue allows",
    "maxlen": "the queue was longer than a policy of it allows",
}
"""What the broker's words mean."""


class Death(NamedTuple):
    """An entry of ``x-death``: that the broker dead-lettered the message itself."""

    reason: str
    """The broker's word, such as ``rejected``."""
    queue: str
    """Where it was."""
    times: int
    at_ms: int | None
    """When it first was. Unix milliseconds."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in the dead-letter queue. Texts are as they came: not made for a terminal."""

    id: str
    """Its ``message_id``; where that is missing or unfit to be typed, a hash, which stays the same."""
    reason: str
    """A word: why it is here."""
    detail: str | None
    """A sentence: what was wrong."""
    producer: str
    """Who published it: ``app_id``, else the broker's user, else :data:`UNKNOWN`. Escaped, so that it can be typed."""
    dead_lettered_at_ms: int | None
    """Unix milliseconds."""
    published_at_ms: int | None
    """Unix milliseconds, as the producer says."""
    replayed: int
    """How often it has been replayed before, 0 or more."""
    exchange: str | None
    """Where it was published."""
    routing_key: str | None
    deaths: Sequence[Death]
    """What the broker wrote on it, the latest first."""
    properties: Mapping[str, Value]
    """All AMQP properties but the headers, for looking at."""
    headers: Mapping[str, Value]
    """For looking at."""
    is_readable: bool
    """Whether its properties can be decoded. If not, any plain consumer loses its connection over it."""
    body: bytes | None
    """As it was published; None where it is longer than 1 MiB, which is not kept."""
    body_bytes: int
    """How long the body is."""
    header: bytes
    """Payload of its content header frame: what all the above was read from."""


def read_letter(delivery: Delivery) -> DeadLetter:
    """What *delivery*, of the dead-letter queue, tells."""
    envelope = delivery.envelope
    assert isinstance(envelope, Envelope)
    properties = read_properties(envelope.header)
    headers = properties.pop("headers", None)
    headers = headers if isinstance(headers, dict) else {}
    deaths = _deaths(headers.get("x-death", headers.get("original-x-death")))
    body = None if delivery.refusal is Reason.BODY_TOO_LARGE else delivery.body
    body_bytes = _BODY_SIZE.unpack_from(envelope.header, _BODY_SIZE_AT)[0]
    unreadable = None if delivery.refusal is None else _why_unreadable(envelope.header)
    latest = deaths[0] if deaths else None
    return DeadLetter(
        id=_id(properties.get("message_id"), envelope.header, body),
        reason=_word(headers.get("dead-letter-reason")) or _reason_of_death(latest),
        detail=_text(headers.get("dead-letter-detail")) or _explain(latest, unreadable, body_bytes),
        producer=printable(
            _text(properties.get("app_id"))
            or _text(properties.get("user_id"))
            or _text(headers.get("original-user-id"))
            or UNKNOWN
        ),
        dead_lettered_at_ms=_moment(headers.get("dead-lettered-at")) or (latest and latest.at_ms),
        published_at_ms=_moment(headers.get("published-at"))
        or _moment(properties.get("timestamp"), unit_ms=1000),
        replayed=_count(headers.get(REPLAYED_HEADER)),
        exchange=_first_text(headers, "original-exchange", "x-first-death-exchange"),
        routing_key=_text(headers.get("original-routing-key")),
        deaths=deaths,
        properties=properties,
        headers=headers,
        is_readable=unreadable is None,
        body=body,
        body_bytes=body_bytes,
        header=envelope.header,
    )


def is_usable_id(text: str) -> bool:
    """Whether *text* can be typed behind ``show`` as it is."""
    return USABLE_ID.fullmatch(text.encode(errors="replace")) is not None


def _reason_of_death(latest: Death | None) -> str:
    if latest is None:
        return UNKNOWN
    # The worker rejects what it can't read or keep, and nothing else.
    return Reason.UNREADABLE_PROPERTIES.value if latest.reason == _REJECTED else latest.reason


def _explain(latest: Death | None, unreadable: str | None, body_bytes: int) -> str | None:
    """Why a letter without our headers is here, as far as that can be told."""
    if unreadable is not None:
        return unreadable
    if body_bytes > LONGEST_BODY_BYTES:
        return f"the body has {body_bytes:,} bytes, more than a worker keeps"
    if latest is None:
        return None
    if latest.reason == _REJECTED:
        return "its headers leave no room for a reason, or somebody has rejected it by hand"
    return _EXPLANATIONS.get(latest.reason)


def _why_unreadable(header: bytes) -> str | None:
    try:
        scan(header)
    except UnreadableProperties as error:
        return str(error)
    return None


def _deaths(value: Value) -> list[Death]:
    entries = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    return [
        Death(
            reason=_word(entry.get("reason")) or UNKNOWN,
            queue=_text(entry.get("queue")) or UNKNOWN,
            times=_integer(entry.get("count")) or 1,
            at_ms=_moment(entry.get("time"), unit_ms=1000),
        )
        for entry in entries
    ]


def _id(message_id: Value, header: bytes, body: bytes | None) -> str:
    if isinstance(message_id, str) and is_usable_id(message_id):
        return message_id
    digest = hashlib.sha256(body or b"")
    digest.update(_own_bytes(header))
    return digest.hexdigest()[:_HASH_DIGITS]


def _own_bytes(header: bytes) -> bytes:
    """*header* without what the broker changes while the letter lies there."""
    try:
        properties = split(header)
        table = properties.pop("headers", None)
        kept = [key + value for key, value in fields(table) if key not in COUNTERS] if table else []
    except MalformedTable:
        return header[_PROPERTIES_AT:]
    return b"".join([*properties.values(), *kept])


def _first_text(headers: Mapping[str, Value], *names: str) -> str | None:
    return next((text for name in names if (text := _text(headers.get(name)))), None)


def _word(value: Value) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _integer(value: Value) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count(value: Value) -> int:
    return min(max(0, _integer(value) or 0), _MOST_REPLAYED)


def _moment(value: Value, *, unit_ms: int = 1) -> int | None:
    """Unix milliseconds, if *value* is some moment up to the year 9999 in units of so many of them."""
    number = _integer(value)
    if number is None or not 0 <= number * unit_ms <= _LATEST_MS:
        return None
    return number * unit_ms
