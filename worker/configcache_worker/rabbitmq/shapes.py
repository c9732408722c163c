"""
Cut out deliveries of a known shape in one step.

What a producer sends is alike to the byte but for a few fields: delivery tag, size of the body, an id, a time. Once one
delivery has been taken apart frame by frame and its properties were checked, the next that differs from it in such fields
alone needs no more than a comparison. Pure, and only a short cut: what it does not know is left to ``frames``, and what it
does know ``frames`` would have read just so.
"""

from __future__ import annotations

import struct
from functools import partial

from configcache.frames import FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_PREFIX
from configcache_worker.core.ports import Delivery
from configcache_worker.rabbitmq.properties import MalformedTable, free_spans
from configcache_worker.rabbitmq.reading import LONGEST_BODY_BYTES, Envelope

_LONGEST_HEADER_BYTES = 1024
_MOST_SPANS = 32
"""A shape costs every delivery that is not of it as much as these two allow."""
_CLASS_AND_WEIGHT_BYTES = 4
_AFTER_BODY_SIZE = 12

# One call for each delivery, where the classes' own constructors are two.
_new_delivery = partial(tuple.__new__, Delivery)
_new_envelope = partial(tuple.__new__, Envelope)


class Shape:
    """
    The bytes of a delivery from its method frame up to its body: what is always the same, and what is free.

    Args:
        channel: The channel's number.
        deliver: Class, method and consumer tag, as the payload of the method frame begins.
        delivery: As it was read frame by frame; not redelivered, not refused.

    Raises:
        MalformedTable: Its properties are of no ordinary shape, or too many.
    """

    def __init__(self, channel: int, deliver: bytes, delivery: Delivery) -> None:
        envelope = delivery.envelope
        assert isinstance(envelope, Envelope)
        names = _short_string(envelope.exchange) + _short_string(envelope.routing_key)
        header = envelope.header
        if len(header) > _LONGEST_HEADER_BYTES or len(spans := free_spans(header)) > _MOST_SPANS:
            raise MalformedTable("more than a shape may cost")
        after_tag = b"\0" + names  # not redelivered
        method_bytes = len(deliver) + 8 + len(after_tag)
        before_tag = FRAME_PREFIX.pack(FRAME_METHOD, channel, method_bytes) + deliver
        before_body_size = (
            after_tag
            + bytes([FRAME_END])
            + FRAME_PREFIX.pack(FRAME_HEADER, channel, len(header))
            + header[:_CLASS_AND_WEIGHT_BYTES]
        )
        before_frame_size = bytes([FRAME_END]) + FRAME_PREFIX.pack(FRAME_BODY, channel, 0)[:-4]

        fixed, layout = [before_tag, before_body_size], f">{len(before_tag)}sQ{len(before_body_size)}sQ"
        self._texts: list[int] = []
        """Where among the values there are texts, which must stay readable."""
        position = _AFTER_BODY_SIZE
        for start, end, is_text in spans:
            fixed.append(header[position:start])
            layout += f"{start - position}s{end - start}s"
            if is_text:
                self._texts.append(2 * len(fixed) - 1)
            position = end
        fixed.append(header[position:] + before_frame_size)
        layout += f"{len(fixed[-1])}sI"
        self._struct = struct.Struct(layout)
        self._fixed = tuple(fixed)
        self._header_at = len(before_tag) + 8 + len(before_body_size) - _CLASS_AND_WEIGHT_BYTES
        self._header_bytes = len(header)
        self._names = (False, envelope.exchange, envelope.routing_key)
        self._properties = delivery.properties

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Shape)
            and self._fixed == other._fixed
            and self._struct.format == other._struct.format
        )

    __hash__ = None  # type: ignore[assignment]

    def cut(self, data: bytes, position: int, last_tag: int, deliveries: list[Delivery]) -> int:
        """
        Append the deliveries of this shape that are in *data*, one behind the other, from *position* on.

        Args:
            data: Part of the stream.
            position: Where a frame begins.
            last_tag: Of the delivery before.
            deliveries: What to append to.

        Returns:
            Where the last of them ends; *position* if there is none.
        """
        unpack, fixed, texts = self._struct.unpack_from, self._fixed, self._texts
        properties, names, header_bytes = self._properties, self._names, self._header_bytes
        length = len(data)
        body_offset = self._struct.size
        while (body_at := position + body_offset) < length:
            values = unpack(data, position)
            if values[::2] != fixed:
                break
            tag, body_bytes = values[1], values[3]
            body_end = body_at + body_bytes
            if (
                not 0 < body_bytes <= LONGEST_BODY_BYTES
                or body_bytes != values[-1]
                or body_end >= length
                or data[body_end] != FRAME_END
                or tag <= last_tag
            ):
                break
            for text in texts:
                if not values[text].isascii():
                    return position
            header_at = position + self._header_at
            header = data[header_at : header_at + header_bytes]
            deliveries.append(
                _new_delivery(
                    (
                        tag,
                        data[body_at:body_end],
                        properties,
                        False,
                        None,
                        header_bytes + body_bytes,
                        _new_envelope((*names, header)),
                    )
                )
            )
            last_tag = tag
            position = body_end + 1
        return position


def _short_string(text: bytes) -> bytes:
    return bytes([len(text)]) + text
