"""
Dead letters as JSON: one object each, a line each in an export.

Pure. A record has what a person or ``jq`` wants to read, and what brings the letter back exactly as it was: the body, and
the properties as the bytes that encode them. AMQP has types that JSON has not, so only these bytes are read back, and the
id; the rest of a record is for looking at.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from configcache_worker.letters.letter import DeadLetter, is_usable_id

FORMAT: Final = "configcache.dead-letter/1"
LONGEST_LINE_BYTES: Final = 16 * 1024 * 1024
"""A body of 1 MiB, written as JSON in the most wasteful way, with its properties twice, takes half of this."""

# Class, weight and size of the body, which is what precedes the flags in a content header.
_BEFORE_FLAGS: Final = 12


class NotALetter(ValueError):
    """A line that no export has written. The text says what is wrong with it."""


class Record(NamedTuple):
    """What brings a letter back."""

    id: str | None
    """What it was known by; None where the line does not say."""
    body: bytes
    header: bytes
    """Payload of a content header frame with the letter's properties."""


def record(letter: DeadLetter) -> dict[str, Any]:
    """Everything about *letter*, as JSON has it."""
    return {
        "format": FORMAT,
        "id": letter.id,
        "reason": letter.reason,
        "detail": letter.detail,
        "producer": letter.producer,
        "dead_lettered_at_ms": letter.dead_lettered_at_ms,
        "published_at_ms": letter.published_at_ms,
        "replayed": letter.replayed,
        "exchange": letter.exchange,
        "routing_key": letter.routing_key,
        "deaths": [death._asdict() for death in letter.deaths],
        "properties": dict(letter.properties),
        "headers": dict(letter.headers),
        "readable": letter.is_readable,
        "body_bytes": letter.body_bytes,
        **_body(letter.body),
        "encoded_properties": _base64(letter.header[_BEFORE_FLAGS:]),
    }


def to_line(letter: DeadLetter) -> str:
    """*letter* as a line, ASCII without control characters, and without a line's end."""
    return to_json(record(letter))


def to_json(document: object, *, indent: int | None = None) -> str:
    """*document* as JSON that a terminal can show: ASCII, with control characters escaped."""
    # JSON lets DEL stand as it is.
    return json.dumps(document, indent=indent, ensure_ascii=True).replace("\x7f", "\\u007f")


def from_line(line: bytes) -> Record:
    """
    Read what :func:`to_line` has written. The body may have been edited.

    Raises:
        NotALetter: It has not.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotALetter("is not JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise NotALetter(f'has no "format": "{FORMAT}"')
    body = _read_body(found)
    encoded = _decoded(found, "encoded_properties")
    id_ = found.get("id")
    known = isinstance(id_, str) and is_usable_id(id_)
    return Record(id_ if known else None, body, bytes(_BEFORE_FLAGS) + encoded)


def _body(body: bytes | None) -> dict[str, str | None]:
    """As text where it is some, else in base64; null where nobody has kept it."""
    if body is None:
        return {"body": None}
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": _base64(body)}


def _read_body(found: Mapping[str, Any]) -> bytes:
    if isinstance(text := found.get("body"), str):
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise NotALetter('has a "body" that is no text') from error
    if "body_base64" in found:
        return _decoded(found, "body_base64")
    raise NotALetter('has neither a "body" nor a "body_base64"')


def _decoded(found: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(found[name], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise NotALetter(f'has no "{name}" in base64') from error


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
