"""
The AMQP properties of a command, as bytes.

Pure. Most of them are the same for everything that one publisher sends, and the driver takes longer to encode them than
the rest of a publish does. So they are encoded once, and what differs is put in between.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from configcache.wire import COMMAND_PROPERTIES

__all__ = ["CommandProperties"]

# The flags of the properties there are, in their order on the wire (AMQP 0-9-1, section 4.2.6.1 and class basic).
_CONTENT_TYPE: Final = 0x8000
_HEADERS: Final = 0x2000
_DELIVERY_MODE: Final = 0x1000
_MESSAGE_ID: Final = 0x0080
_TYPE: Final = 0x0020
_APP_ID: Final = 0x0008
_OF_EVERY_COMMAND: Final = _CONTENT_TYPE | _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _TYPE
_FLAGS = struct.Struct(">H")
_LENGTH = struct.Struct(">I")
_MILLISECONDS = struct.Struct(">q")
_PERSISTENT: Final = b"\x02"
_LONGEST_SHORT_STRING: Final = 255


class CommandProperties:
    """
    Encodes the properties of one publisher's commands.

    Raises:
        ValueError: *app_id* is too long for AMQP.
    """

    def __init__(self, app_id: str | None) -> None:
        flags = _OF_EVERY_COMMAND
        if app_id and (length := len(app_id.encode())) > _LONGEST_SHORT_STRING:
            raise ValueError(f"app_id must have at most {_LONGEST_SHORT_STRING} bytes, not {length}")
        last = _short_string(COMMAND_PROPERTIES.type or "")
        if app_id:
            flags |= _APP_ID
            last += _short_string(app_id)
        self._before_headers = _FLAGS.pack(flags) + _short_string(COMMAND_PROPERTIES.content_type or "")
        self._after_message_id = last

    def encode(self, *, message_id: str, published_at_ms: int, trace: Mapping[str, str]) -> bytes:
        """
        Encode the properties of one command.

        Args:
            message_id: The command's, at most 255 bytes.
            published_at_ms: Unix milliseconds.
            trace: Headers with its trace context.
        """
        table = _PUBLISHED_AT + _MILLISECONDS.pack(published_at_ms)
        if trace:
            table += b"".join(_text_header(name, text) for name, text in trace.items())
        return b"".join(
            (
                self._before_headers,
                _LENGTH.pack(len(table)),
                table,
                _PERSISTENT,
                _short_string(message_id),
                self._after_message_id,
            )
        )


def _short_string(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded


def _text_header(name: str, text: str) -> bytes:
    encoded = text.encode()
    return _short_string(name) + b"S" + _LENGTH.pack(len(encoded)) + encoded


_PUBLISHED_AT: Final = _short_string("published-at") + b"l"
