"""
Cut one consumer's deliveries out of an AMQP 0-9-1 byte stream.

Pure: bytes in, deliveries and the remaining bytes out. What a delivery's properties mean, and what becomes of
it, is left to others; so is everything that is not a delivery of the watched consumer: it passes through,
unchanged and in order, as whole frames.

The bytes come from the network and are not trusted: whatever they are, they give deliveries that were really
there, a :class:`ProtocolError`, or a wait for more bytes within the limits below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from configcache.frames import (
    FRAME_BODY,
    FRAME_END,
    FRAME_HEADER,
    FRAME_HEARTBEAT,
    FRAME_METHOD,
    FRAME_PREFIX,
)
from configcache_worker.core.ports import Delivery
from configcache_worker.rabbitmq.properties import MalformedTable
from configcache_worker.rabbitmq.reading import LONGEST_BODY_BYTES, Envelope, read
from configcache_worker.rabbitmq.shapes import Shape

LONGEST_FRAME_BYTES = 1 << 20
"""
Longer frames are a protocol error, except in a body that is being discarded. Generous beside the usual
``frame_max`` of 128 KiB, because brokers exceed it a little in content headers to which they added their own.
"""

_SHAPES = 4
"""So many shapes are known at once: more producers than that on one queue are taken apart frame by frame."""
_UNKNOWN_BETWEEN_SHAPES = 16
"""So many deliveries of no known shape come before another is learned, which costs as much as taking four apart."""

_FRAME_TYPES = frozenset({FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT})
_PREFIX_BYTES = FRAME_PREFIX.size
_SHORTEST_FRAME_BYTES = _PREFIX_BYTES + 1

_CLASS_BASIC = 60
_BASIC_DELIVER = struct.pack(">HH", _CLASS_BASIC, 60)
_BASIC_CANCEL = struct.pack(">HH", _CLASS_BASIC, 30)
_CHANNEL_CLOSE = struct.pack(">HH", 20, 40)
_CONNECTION_CLOSE = struct.pack(">HH", 10, 50)
_METHODS_WITH_CONTENT = frozenset(
    {_BASIC_DELIVER, struct.pack(">HH", _CLASS_BASIC, 50), struct.pack(">HH", _CLASS_BASIC, 71)}
)

_AFTER_CONSUMER_TAG = struct.Struct(">QBB")  # delivery tag, redelivered, length of the exchange's name
_CONTENT = struct.Struct(">HHQ")  # class, weight, body size; then the property flags
_SHORTEST_HEADER_BYTES = _CONTENT.size + 2


class ProtocolError(Exception):
    """The bytes are not what AMQP 0-9-1 allows here. Nothing sound can follow on this connection."""


class DeliveryCutter:
    """
    Cuts the deliveries of one consumer on one channel out of the bytes fed to it.

    Until :meth:`watch` is called everything passes through, and faults are left to the reader behind. A wrong
    frame end is left to it always: the frame is passed on, and so is everything after it.
    """

    def __init__(self) -> None:
        self.ending: str | None = None
        """
        Why the watched consumer gets no more, set in the very moment the broker's close or cancel is seen.
        """
        self._cutting = True
        self._channel: int | None = None
        self._consumer = b""
        self._deliver = b""
        self._last_tag = 0
        self._deliveries: list[Delivery] = []
        self._shapes: list[Shape] = []
        self._unknown = _UNKNOWN_BETWEEN_SHAPES
        """Deliveries that had no known shape, since the last one was learned."""
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = 0
        self._skip_bytes = 0
        # The watched channel's content in the making. `_expect` takes its next frame and says whether that is
        # cut out.
        self._expect: Callable[[int, bytes, int, int], bool] = self._expect_method
        self._method: tuple[int, bool, bytes, bytes] = (0, False, b"", b"")
        self._header = b""
        self._body_size = 0
        self._missing_bytes = 0
        self._parts: list[bytes] | None = None

    def watch(self, channel: int, consumer_tag: str) -> None:
        """
        Begin to cut out the deliveries of *consumer_tag* on *channel*. Call it before the consumer is
        registered.
        """
        tag = consumer_tag.encode()
        self._consumer = bytes([len(tag)]) + tag
        self._deliver = _BASIC_DELIVER + self._consumer
        self._channel = channel

    def feed(self, data: bytes) -> tuple[list[Delivery], bytes]:
        """
        Take the next bytes of the stream.

        Returns:
            The deliveries completed by them, and everything else that is complete, for the reader behind.

        Raises:
            ProtocolError: See there. What the same bytes completed before the fault is lost with the
            connection.
        """
        if not self._cutting:
            return [], data
        position = 0
        if self._skip_bytes:
            position = self._skip_discarded(data)
        elif self._held:
            data = self._join_held(data)
        length = len(data)
        passed_on: list[bytes] = []
        pass_from = position  # data[pass_from:position] is not ours
        channel_watched = self._channel

        while length - position >= _SHORTEST_FRAME_BYTES:
            if self._expect == self._expect_method:
                cut_to = self._cut_known(data, position)
                if cut_to != position:
                    if pass_from != position:
                        passed_on.append(data[pass_from:position])
                    pass_from = position = cut_to
                    continue
            kind, channel, size = FRAME_PREFIX.unpack_from(data, position)
            start = position + _PREFIX_BYTES
            end = start + size
            if end >= length or (size > LONGEST_FRAME_BYTES and not self._is_discarding(kind, channel)):
                if self._discards(kind, channel, size, arrived_bytes=length - start):
                    passed_on.append(data[pass_from:position])
                    pass_from = position = length
                break
            if data[end] != FRAME_END:
                self._cutting = False
                break
            if channel == channel_watched:
                if self._expect(kind, data, start, end):
                    if pass_from != position:
                        passed_on.append(data[pass_from:position])
                    pass_from = end + 1
            elif kind == FRAME_METHOD and channel == 0:
                self._notice_connection_close(data, start, end)
            elif kind not in _FRAME_TYPES:
                self._fault(f"unknown frame type {kind}")
                break
            position = end + 1

        if not self._cutting:
            position = length
        if position < length:
            self._hold(data[position:])
        if pass_from != position:
            passed_on.append(data[pass_from:position])
        deliveries, self._deliveries = self._deliveries, []
        return deliveries, b"".join(passed_on)

    # Deliveries like those before.

    def _cut_known(self, data: bytes, position: int) -> int:
        """Cut out the deliveries at *position* that have a known shape, and return where they end."""
        for shape in self._shapes:
            end = shape.cut(data, position, self._last_tag, self._deliveries)
            if end != position:
                self._last_tag = self._deliveries[-1].tag
                return end
        return position

    def _learn(self, delivery: Delivery) -> None:
        assert self._channel is not None
        self._unknown = 0
        try:
            shape = Shape(self._channel, self._deliver, delivery)
        except MalformedTable:
            return
        if shape not in self._shapes:
            self._shapes = [shape, *self._shapes[: _SHAPES - 1]]

    # Frames that came in part.

    def _hold(self, data: bytes) -> None:
        """
        Keep the first part of a frame until the rest is there; copied once, however small the parts are.
        """
        self._held = [data]
        self._held_bytes = len(data)
        self._needed_bytes = _SHORTEST_FRAME_BYTES
        if self._held_bytes >= _SHORTEST_FRAME_BYTES:
            self._needed_bytes += FRAME_PREFIX.unpack_from(data)[2]

    def _join_held(self, data: bytes) -> bytes:
        """The held bytes and *data* in one, or nothing yet while a frame is still incomplete."""
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._needed_bytes:
            return b""
        joined = b"".join(self._held)
        self._held = []
        return joined

    def _discards(self, kind: int, channel: int, size: int, *, arrived_bytes: int) -> bool:
        """
        Judge a frame that is incomplete or too long: whether the part of it that has come is dropped at once.

        So it is in a body that is being discarded. Any other frame is waited for, if it can be one.
        """
        if kind not in _FRAME_TYPES:
            self._fault(f"unknown frame type {kind}")
        elif self._is_discarding(kind, channel):
            self._count_body(size)
            self._skip_bytes = size + 1 - arrived_bytes
            return True
        elif size > LONGEST_FRAME_BYTES:
            self._fault(f"a frame of {size} bytes")
        return False

    def _is_discarding(self, kind: int, channel: int) -> bool:
        """Whether a frame belongs to a body whose bytes are dropped as they pass."""
        return (
            channel == self._channel
            and kind == FRAME_BODY
            and self._expect == self._expect_body
            and self._parts is None
        )

    def _skip_discarded(self, data: bytes) -> int:
        """
        Drop the next part of a frame that is being discarded, and return where what follows it begins in
        *data*.
        """
        skipped = min(self._skip_bytes, len(data))
        self._skip_bytes -= skipped
        if not self._skip_bytes:
            if data[skipped - 1] != FRAME_END:
                raise ProtocolError("a body frame without its frame end")
            if not self._missing_bytes:
                self._complete(None)
        return skipped

    # Whole frames on the watched channel, in the order AMQP has them: method, content header, content bodies.

    def _expect_method(self, kind: int, data: bytes, start: int, end: int) -> bool:
        if kind != FRAME_METHOD:
            raise ProtocolError(f"a frame of type {kind} where a method belongs")
        if data.startswith(self._deliver, start, end):
            self._begin_delivery(data, start, end)
            return True
        self._notice_channel_end(data, start, end)
        if data[start : start + 4] in _METHODS_WITH_CONTENT:
            self._expect = self._pass_header
        return False

    def _begin_delivery(self, data: bytes, start: int, end: int) -> None:
        try:
            position = start + len(self._deliver)
            tag, redelivered, exchange_bytes = _AFTER_CONSUMER_TAG.unpack_from(data, position)
            position += _AFTER_CONSUMER_TAG.size
            key_at = position + exchange_bytes
            if key_at + 1 + data[key_at] != end:
                raise ProtocolError("a Basic.Deliver of a wrong size")
        except (struct.error, IndexError):
            raise ProtocolError("a Basic.Deliver of a wrong size") from None
        if tag <= self._last_tag:
            raise ProtocolError(f"delivery tag {tag} after {self._last_tag}")
        self._last_tag = tag
        self._method = (tag, redelivered & 1 == 1, data[position:key_at], data[key_at + 1 : end])
        self._expect = self._expect_header

    def _expect_header(self, kind: int, data: bytes, start: int, end: int) -> bool:
        body_size = self._begin_content(kind, data, start, end)
        self._header = data[start:end]
        if body_size:
            self._parts = [] if body_size <= LONGEST_BODY_BYTES else None
            self._expect = self._expect_body
        else:
            self._complete(b"")
        return True

    def _expect_body(self, kind: int, data: bytes, start: int, end: int) -> bool:
        if kind != FRAME_BODY:
            raise ProtocolError(f"a frame of type {kind} within a body")
        self._count_body(end - start)
        parts = self._parts
        if parts is None:
            if not self._missing_bytes:
                self._complete(None)
        elif self._missing_bytes:
            parts.append(data[start:end])
        elif parts:
            parts.append(data[start:end])
            self._complete(b"".join(parts))
        else:
            self._complete(data[start:end])
        return True

    def _complete(self, body: bytes | None) -> None:
        tag, redelivered, exchange, routing_key = self._method
        delivery = read(tag, Envelope(redelivered, exchange, routing_key, self._header), body)
        self._deliveries.append(delivery)
        self._unknown += 1
        if self._unknown > _UNKNOWN_BETWEEN_SHAPES and not (redelivered or delivery.refusal):
            self._learn(delivery)
        self._parts = None
        self._expect = self._expect_method

    def _pass_header(self, kind: int, data: bytes, start: int, end: int) -> bool:
        if self._begin_content(kind, data, start, end):
            self._expect = self._pass_body
        else:
            self._expect = self._expect_method
        return False

    def _pass_body(self, kind: int, data: bytes, start: int, end: int) -> bool:
        if kind != FRAME_BODY:
            raise ProtocolError(f"a frame of type {kind} within a body")
        self._count_body(end - start)
        if not self._missing_bytes:
            self._expect = self._expect_method
        return False

    def _begin_content(self, kind: int, data: bytes, start: int, end: int) -> int:
        if kind != FRAME_HEADER or end - start < _SHORTEST_HEADER_BYTES:
            raise ProtocolError(f"a frame of type {kind} where a content header belongs")
        class_id, _, self._body_size = _CONTENT.unpack_from(data, start)
        if class_id != _CLASS_BASIC:
            raise ProtocolError(f"a content header of class {class_id}")
        self._missing_bytes = self._body_size
        return self._body_size

    def _count_body(self, size: int) -> None:
        if size > self._missing_bytes:
            raise ProtocolError("a body longer than its header says")
        self._missing_bytes -= size

    # What ends the consumer.

    def _notice_channel_end(self, data: bytes, start: int, end: int) -> None:
        if data.startswith(_CHANNEL_CLOSE, start, end):
            self._note_ending("the broker closed the channel: " + _close_reason(data, start, end))
        elif data.startswith(_BASIC_CANCEL + self._consumer, start, end):
            self._note_ending("the broker cancelled the consumer")

    def _notice_connection_close(self, data: bytes, start: int, end: int) -> None:
        if data.startswith(_CONNECTION_CLOSE, start, end):
            self._note_ending("the broker closed the connection: " + _close_reason(data, start, end))

    def _note_ending(self, reason: str) -> None:
        if self.ending is None:
            self.ending = reason

    def _fault(self, text: str) -> None:
        """
        Not AMQP. Before anything is watched the reader behind finds out by itself, and knows better what was
        going on.
        """
        if self._channel is not None:
            raise ProtocolError(text)
        self._cutting = False


def _close_reason(data: bytes, start: int, end: int) -> str:
    """Code and text of a Connection.Close or Channel.Close, as far as they are there."""
    code = int.from_bytes(data[start + 4 : start + 6])
    text_bytes = data[start + 6] if start + 6 < end else 0
    text = data[start + 7 : min(start + 7 + text_bytes, end)]
    return f"{code} {text.decode(errors='replace')}"
