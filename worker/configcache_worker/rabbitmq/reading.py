"""
What the core gets to see of a delivery, read off its content header and body.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from configcache import trace
from configcache.wire import Properties, Reason
from configcache_worker.core.ports import Delivery
from configcache_worker.rabbitmq.properties import (
    UnreadableProperties,
    delivery_count,
    published_ms,
    scan,
    text_headers,
)

SOLO_DELIVERY_COUNT: Final = 10
"""A message returned so often may be what kills its worker, and is kept away from others."""

LONGEST_BODY_BYTES: Final = 1 << 20
"""The bytes of a longer body are discarded as they pass: its delivery is refused as too large."""
_OLDEST_S: Final = 366 * 24 * 3600.0
"""Nothing waits for longer; what seems to was published with a time that is not in milliseconds."""

_NO_PROPERTIES: Final = Properties()


class Envelope(NamedTuple):
    """What came around a body: the core takes it along unseen, for the dead letters."""

    redelivered: bool
    exchange: bytes
    """Bytes, not text: names are untrusted, and nobody reads them but the dead letters."""
    routing_key: bytes
    header: bytes
    """Payload of the content header frame: class, weight, body size, property flags, properties."""


def read(tag: int, envelope: Envelope, body: bytes | None) -> Delivery:
    """
    The delivery *tag*, as far as it can be read.

    Args:
        tag: The delivery tag.
        envelope: What came around the body.
        body: None when it was too long to be kept.
    """
    refusal = None
    properties = _NO_PROPERTIES
    if body is None:
        refusal = Reason.BODY_TOO_LARGE
        body = b""
    else:
        try:
            properties = scan(envelope.header)
        except UnreadableProperties:
            refusal = Reason.UNREADABLE_PROPERTIES
    return Delivery(
        tag=tag,
        body=body,
        properties=properties,
        solo=envelope.redelivered and delivery_count(envelope.header) >= SOLO_DELIVERY_COUNT,
        refusal=refusal,
        size=len(body) + len(envelope.header),
        envelope=envelope,
    )


def age_s(delivery: Delivery) -> float | None:
    """
    How many seconds ago the message was published, by its producer's clock and ours; not below 0.

    Returns:
        None if it doesn't say, or what it says can't be: then the header ``published-at`` is no Unix time in milliseconds.
    """
    envelope = delivery.envelope
    if not isinstance(envelope, Envelope) or (published := published_ms(envelope.header)) is None:
        return None
    found_s = time.time() - published / 1000
    return max(found_s, 0.0) if abs(found_s) < _OLDEST_S else None


def trace_headers(delivery: Delivery) -> dict[str, str]:
    """The W3C trace context that came with the message; empty if none did, or it is malformed, or was not kept."""
    envelope = delivery.envelope
    if not isinstance(envelope, Envelope):
        return {}
    found = text_headers(envelope.header, ("traceparent", "tracestate"))
    return trace.headers(found.get("traceparent"), found.get("tracestate"))
