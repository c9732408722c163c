"""
AMQP 0-9-1 frames, as far as confirmed publishing is made of them: a publish as bytes, and the broker's answers out of them.

Pure. Everything else on the connection is left to the driver, and passes through unchanged, in order, as whole frames.
"""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple

from pamqp import commands
from pamqp.frame import marshal
from pamqp.header import ContentHeader

__all__ = [
    "FRAME_BODY",
    "FRAME_END",
    "FRAME_HEADER",
    "FRAME_HEARTBEAT",
    "FRAME_METHOD",
    "FRAME_PREFIX",
    "Answer",
    "AnswerCutter",
    "Confirmed",
    "Returned",
    "message",
    "most_properties_bytes",
    "publish_method",
]

FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
FRAME_HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE
FRAME_PREFIX: Final = struct.Struct(">BHI")
"""Type, channel, size of the payload."""

_FRAME_TYPES: Final = frozenset({FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT})
_AROUND_PAYLOAD_BYTES: Final = FRAME_PREFIX.size + 1
_END: Final = bytes([FRAME_END])

_CLASS_BASIC: Final = 60
_CONTENT = struct.Struct(">HHQ")  # class, weight, body size; then property flags and properties
_CONFIRM = struct.Struct(">QB")  # delivery tag, flags: the lowest bit is `multiple`

_METHOD = struct.Struct(">HH")  # class, method
_ACK: Final = _METHOD.pack(_CLASS_BASIC, 80)
_NACK: Final = _METHOD.pack(_CLASS_BASIC, 120)
_RETURN: Final = _METHOD.pack(_CLASS_BASIC, 50)
_CHANNEL_CLOSE: Final = _METHOD.pack(20, 40)
_CONNECTION_CLOSE: Final = _METHOD.pack(10, 50)


def publish_method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    """
    The frame that begins a publish: the same for all with one address.

    Raises:
        ValueError: A name is longer than 255 bytes.
    """
    return marshal(
        commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory), channel
    )


def most_properties_bytes(most_bytes: int) -> float:
    """How long property flags and properties may be where no frame is longer than *most_bytes*, or 0 for no limit."""
    return most_bytes - _AROUND_PAYLOAD_BYTES - _CONTENT.size if most_bytes else math.inf


def message(channel: int, method: bytes, properties: bytes, body: bytes, *, most_bytes: int) -> bytes:
    """
    The frames of a publish.

    Args:
        channel: Its number.
        method: What :func:`publish_method` made for it.
        properties: Property flags and properties, as on the wire.
        body: What is published.
        most_bytes: No body frame is longer, all included; 0 for no limit.
    """
    header = _CONTENT.pack(_CLASS_BASIC, 0, len(body)) + properties
    part_bytes = most_bytes - _AROUND_PAYLOAD_BYTES if most_bytes else len(body) or 1
    parts = [body[start : start + part_bytes] for start in range(0, len(body), part_bytes)]
    return b"".join(
        [
            method,
            _frame(FRAME_HEADER, channel, header),
            *(_frame(FRAME_BODY, channel, part) for part in parts),
        ]
    )


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return FRAME_PREFIX.pack(kind, channel, len(payload)) + payload + _END


class Confirmed(NamedTuple):
    """The broker's yes (ack) or no (nack) to one publish, or to all up to it."""

    tag: int
    """Publishes on a channel count from 1."""
    multiple: bool
    is_taken: bool


class Returned(NamedTuple):
    """A publish that reached no queue. Its yes comes as well, and later."""

    message_id: str | None
    """None if the broker's copy of the properties cannot be read."""


Answer = Confirmed | Returned


class AnswerCutter:
    """
    Cuts the answers to what is published on one channel out of the bytes fed to it.

    Until :meth:`watch` is called everything passes through. Bytes that are no AMQP are left to the driver, and so is
    everything after them.
    """

    def __init__(self) -> None:
        self.is_closing = False
        """Whether the broker has closed the channel or the connection: set in the very moment this is seen."""
        self._cutting = True
        self._channel: int | None = None
        self._held = b""

    def watch(self, channel: int) -> None:
        """Begin to cut out what concerns *channel*. Call it before anything is published there."""
        self._channel = channel

    def feed(self, data: bytes) -> tuple[list[Answer], bytes]:
        """
        Take the next bytes of the stream.

        Returns:
            The answers completed by them, and everything else that is complete, for the driver.
        """
        if not self._cutting:
            return [], data
        data = self._held + data
        answers: list[Answer] = []
        passed_on: list[bytes] = []
        position = pass_from = 0  # data[pass_from:position] is the driver's
        while len(data) - position >= _AROUND_PAYLOAD_BYTES:
            kind, channel, size = FRAME_PREFIX.unpack_from(data, position)
            start = position + FRAME_PREFIX.size
            end = start + size
            if kind not in _FRAME_TYPES or (end < len(data) and data[end] != FRAME_END):
                self._cutting = False
                position = len(data)
                break
            if end >= len(data):
                break
            if self._is_ours(kind, channel, data[start:end], answers):
                passed_on.append(data[pass_from:position])
                pass_from = end + 1
            position = end + 1
        self._held = data[position:]
        passed_on.append(data[pass_from:position])
        return answers, b"".join(passed_on)

    def _is_ours(self, kind: int, channel: int, payload: bytes, answers: list[Answer]) -> bool:
        """Whether a frame is, or is part of, an answer. One that tells something is added to *answers*."""
        method = payload[: _METHOD.size]
        if channel != self._channel:
            self.is_closing |= channel == 0 and kind == FRAME_METHOD and method == _CONNECTION_CLOSE
            return False
        if kind == FRAME_HEADER:  # nothing else with content comes on a channel that only publishes
            answers.append(Returned(_message_id(payload)))
        elif kind == FRAME_METHOD:
            if method in (_ACK, _NACK):
                tag, flags = _CONFIRM.unpack_from(payload, _METHOD.size)
                answers.append(Confirmed(tag, flags & 1 == 1, method == _ACK))
            else:
                self.is_closing |= method == _CHANNEL_CLOSE
                return method == _RETURN
        return True


def _message_id(header: bytes) -> str | None:
    found = ContentHeader()
    try:
        found.unmarshal(header)
    except Exception:  # whatever it is: properties may be copied from a stranger's message
        return None
    return found.properties.message_id
