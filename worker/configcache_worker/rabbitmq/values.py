"""
Read AMQP properties for people to look at, whatever their bytes are.

Pure and total: what is no text, no time or no table is shown as well as it can be, never an error. That makes it no judge
of what others can decode, which is ``properties``'s business; and nothing is published from what it gives.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, Union

from configcache_worker.rabbitmq.properties import MalformedTable, fields, items, split

Value = Union[None, bool, int, float, str, "list[Value]", "dict[str, Value]"]
"""What JSON has. Times are seconds since 1970; bytes that are no UTF-8 stand in a text as ``\\xff``."""

UNREADABLE: Final = "(cannot be read)"
_DEEPEST: Final = 16

_NUMBERS: Final[Mapping[int, struct.Struct]] = {
    ord(kind): struct.Struct(">" + code)
    for kind, code in zip("bBsuIilLfdT", ("b", "B", "h", "H", "i", "I", "q", "Q", "f", "d", "Q"), strict=True)
}
_DECIMAL: Final = struct.Struct(">Bi")
_LENGTH_BYTES: Final = 4
_PROPERTY_NUMBERS: Final = {
    "delivery_mode": struct.Struct(">B"),
    "priority": struct.Struct(">B"),
    "timestamp": struct.Struct(">Q"),
}


def read_properties(header: bytes) -> dict[str, Value]:
    """
    The properties in *header*, the payload of a content header frame, by the names of ``properties.LAYOUT``.

    Their order is that of the wire. Empty where they can't even be told apart.
    """
    try:
        encoded = split(header)
    except MalformedTable:
        return {}
    return {name: _read_property(name, value) for name, value in encoded.items()}


def read_value(encoded: bytes, *, depth: int = 0) -> Value:
    """What *encoded*, a field's value with its type octet, says. Tables deeper than 16 are not looked into."""
    kind, content = encoded[0], encoded[1:]
    if kind in _NUMBERS:
        number: int | float = _NUMBERS[kind].unpack(content)[0]
        return number if math.isfinite(number) else str(number)  # JSON has no infinity
    match chr(kind):
        case "t":
            return content != b"\0"
        case "S" | "x":
            return read_text(content[_LENGTH_BYTES:])
        case "D":
            scale, unscaled = _DECIMAL.unpack(content)
            return str(Decimal(unscaled).scaleb(-scale))
        case "F" | "A" if depth >= _DEEPEST:
            return UNREADABLE
        case "F":
            return read_table(content, depth=depth + 1)
        case "A":
            return _read_array(content, depth=depth + 1)
    return None  # V, and what stands for it


def read_table(encoded: bytes, *, depth: int = 0) -> Value:
    """The fields of *encoded*, a table with its four length octets."""
    try:
        return {read_text(key): read_value(value, depth=depth) for key, value in fields(encoded)}
    except MalformedTable:
        return UNREADABLE


def read_text(encoded: bytes) -> str:
    """The text that *encoded* is, or nearly is."""
    return encoded.decode(errors="backslashreplace")


def _read_array(encoded: bytes, *, depth: int) -> Value:
    try:
        return [read_value(value, depth=depth) for value in items(encoded)]
    except MalformedTable:
        return UNREADABLE


def _read_property(name: str, encoded: bytes) -> Value:
    if name == "headers":
        return read_table(encoded)
    if name in _PROPERTY_NUMBERS:
        number: int = _PROPERTY_NUMBERS[name].unpack(encoded)[0]
        return number
    return read_text(encoded[1:])
