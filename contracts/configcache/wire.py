"""
The wire format: a message's body and properties to a command and back.

:func:`decode` is total: any bytes and any properties give a command, or a :class:`ContractError` with its reason. It
does no I/O and keeps no state. Which queue a message came from, and what becomes of a bad one, is left to others.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from configcache.command import PROPERTIES, ClearConfigurationCache, describe_unknown
from configcache.errors import ContractError, Reason

__all__ = [
    "COMMAND_PROPERTIES",
    "MAX_BODY_BYTES",
    "ContractError",
    "Properties",
    "Reason",
    "decode",
    "encode",
]

MAX_BODY_BYTES: Final = 65_536
"""A larger body is not decoded. A command has a few hundred bytes at most; every bound needs a number."""


class Properties(NamedTuple):
    """The three AMQP properties that decide how a body is read, as text; None where absent."""

    content_type: str | None = None
    content_encoding: str | None = None
    type: str | None = None


COMMAND_PROPERTIES: Final = Properties(content_type="application/json", type=ClearConfigurationCache.__name__)
"""What a publisher sends with :func:`encode`'s body."""

_NO_PROPERTIES: Final = Properties()
_USUAL_PROPERTIES: Final = frozenset({COMMAND_PROPERTIES, _NO_PROPERTIES})


def encode(command: ClearConfigurationCache) -> bytes:
    """Write *command* as compact JSON in UTF-8. ``AssociateId`` is there only where it is set."""
    return command.model_dump_json(by_alias=True, exclude_none=True).encode()


def decode(body: bytes, properties: Properties = _NO_PROPERTIES) -> ClearConfigurationCache:
    """
    Read a message as a command.

    The checks run in the order of :class:`Reason`; the first that fails names the reason.

    Raises:
        ContractError: The message breaks the contract. Nothing else is raised, for any bytes and any properties.
    """
    if properties not in _USUAL_PROPERTIES:
        _check_properties(properties)
    if len(body) > MAX_BODY_BYTES:
        raise ContractError(
            Reason.BODY_TOO_LARGE, f"the body has {len(body):,} bytes, more than {MAX_BODY_BYTES:,}"
        )
    command = _decode_fast(body)
    return _decode_thoroughly(body) if command is None else command


def _decode_fast(body: bytes) -> ClearConfigurationCache | None:
    """
    Read a plain, valid body in one pass of compiled code, or give None: it may be wrong, or merely unusual.

    pydantic takes the last of duplicate properties, so those have to be found another way. Without a backslash, every
    double quote of a valid body begins or ends a string: a property's name, or one of the two names' values. More
    quotes than that mean that a property came twice.
    """
    if b"\\" in body:
        return None
    try:
        command = ClearConfigurationCache.model_validate_json(body, by_alias=True, by_name=False)
    except ValidationError:
        return None
    strings = len(command.model_fields_set) + 2
    return command if body.count(b'"') == 2 * strings else None


def _decode_thoroughly(body: bytes) -> ClearConfigurationCache:
    """Read any body rule by rule, and name the first that is broken."""
    pairs = _parse_object(_decode_text(body))
    _check_property_names(pairs)
    try:
        return ClearConfigurationCache.model_validate(dict(pairs), by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise ContractError(Reason(first["type"]), first["msg"]) from None


def _decode_text(body: bytes) -> str:
    if body.startswith(codecs.BOM_UTF8):
        raise ContractError(
            Reason.INVALID_UTF_8, "the body begins with a byte order mark; send UTF-8 without one"
        )
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ContractError(
            Reason.INVALID_UTF_8, f"the body is not UTF-8: {error.reason} at byte {error.start}"
        ) from None


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, duplicates and all."""


def _parse_object(text: str) -> _Object:
    try:
        value = json.loads(
            text, object_pairs_hook=_Object, parse_int=_parse_integer, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        problem = error.msg.partition(":")[0]
        raise ContractError(
            Reason.INVALID_JSON, f"the body is not JSON: {problem} at character {error.pos}"
        ) from None
    except RecursionError:
        raise ContractError(Reason.INVALID_JSON, "the body is nested too deeply") from None
    if not isinstance(value, _Object):
        raise ContractError(Reason.NOT_AN_OBJECT, "the body is JSON but not an object: it must be {...}")
    return value


def _parse_integer(digits: str) -> int:
    # Python refuses to convert thousands of digits, and no value that long is a valid one.
    return int(digits) if len(digits) <= _LONGEST_INTEGER else _OUT_OF_RANGE


_OUT_OF_RANGE: Final = 2**63
_LONGEST_INTEGER: Final = len(str(_OUT_OF_RANGE))


def _refuse_constant(name: str) -> None:
    raise ContractError(Reason.INVALID_JSON, f"the body is not JSON: {name} is no JSON value")


def _check_property_names(pairs: _Object) -> None:
    counts = Counter(name for name, _ in pairs)
    duplicates = [name for name, count in counts.items() if count > 1]
    if duplicates:
        named = next((name for name in PROPERTIES if name in duplicates), "a property")
        raise ContractError(Reason.DUPLICATE_PROPERTY, f"{named} appears more than once")
    unknown = next((name for name in counts if name not in PROPERTIES), None)
    if unknown is not None:
        raise ContractError(Reason.UNKNOWN_PROPERTY, describe_unknown(unknown))


def _check_properties(properties: Properties) -> None:
    content_type, content_encoding, message_type = properties
    if message_type is not None and message_type != COMMAND_PROPERTIES.type:
        raise ContractError(Reason.WRONG_MESSAGE_TYPE, Reason.WRONG_MESSAGE_TYPE.meaning)
    if content_type is not None and not _is_utf_8_json(content_type):
        raise ContractError(Reason.UNSUPPORTED_CONTENT_TYPE, Reason.UNSUPPORTED_CONTENT_TYPE.meaning)
    if content_encoding is not None and content_encoding.lower() not in {"utf-8", "identity"}:
        raise ContractError(Reason.UNSUPPORTED_CONTENT_ENCODING, Reason.UNSUPPORTED_CONTENT_ENCODING.meaning)


def _is_utf_8_json(content_type: str) -> bool:
    media_type, _, parameters = content_type.partition(";")
    if media_type.strip().lower() != COMMAND_PROPERTIES.content_type:
        return False
    charsets = (
        value.strip().strip('"').lower()
        for name, value in _PARAMETER.findall(parameters)
        if name.lower() == "charset"
    )
    return all(charset == "utf-8" for charset in charsets)


# A media type's parameter: name=token or name="quoted, with ; inside" (RFC 9110, section 5.6.6).
_PARAMETER: Final = re.compile(r'([^\s;="]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')
