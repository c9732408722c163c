"""
What a dead letter would be published as, mended or not; or why it should not be.

Pure. The judge is the contract's own code, the same that decides in a worker: what it would refuse again is not published.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from configcache.command import ClearConfigurationCache, describe_unknown
from configcache.errors import ContractError, Reason
from configcache.wire import COMMAND_PROPERTIES, Properties, decode
from configcache_worker.letters.bounds import LONGEST_PROPERTIES_BYTES, MAX_REPLAYS
from configcache_worker.letters.letter import DeadLetter
from configcache_worker.rabbitmq.copies import encode_command
from configcache_worker.rabbitmq.properties import MalformedTable, scan

REPLAYED_OFTEN: Final = "replayed-often"
UNREADABLE_BODY: Final = "unreadable-body"
PROPERTIES_TOO_LARGE: Final = "properties-too-large"

# A content header without properties: class, weight, size of the body, flags.
_NO_PROPERTIES: Final = bytes(14)


@dataclass(frozen=True, slots=True)
class Mending:
    """What to change before a letter is replayed."""

    set: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Properties of the body to set, by the contract's names."""
    unset: frozenset[str] = frozenset()
    """Properties of the body to leave out, of any name."""
    as_command: bool = False
    """Publish it with the type, content type and encoding of a command, whatever it had."""
    max_replays: int = MAX_REPLAYS
    """A letter replayed so often before is refused."""

    @property
    def changes_body(self) -> bool:
        """Whether anything is set or left out."""
        return bool(self.set or self.unset)


AS_IT_IS: Final = Mending()


@dataclass(frozen=True, slots=True)
class Replay:
    """A command that may be published for a letter."""

    letter: DeadLetter
    command: ClearConfigurationCache
    body: bytes
    properties: bytes
    """Flags and properties as on the wire."""
    message_id: str
    """The command's own, which is in *properties* too."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing is published for a letter. It stays where it is."""

    letter: DeadLetter
    reason: str
    """
    A word: one of :class:`~configcache.errors.Reason`, :data:`REPLAYED_OFTEN`, :data:`UNREADABLE_BODY` or
    :data:`PROPERTIES_TOO_LARGE`.
    """
    detail: str
    """A sentence on what is wrong and what would be right."""


def prepare(letter: DeadLetter, mending: Mending, *, message_id: str) -> Replay | Refusal:
    """
    Decide what to publish for *letter*.

    Args:
        letter: As it lies there.
        mending: What to change first.
        message_id: For the command; never used before.
    """
    if letter.replayed >= mending.max_replays:
        return Refusal(
            letter,
            REPLAYED_OFTEN,
            f"it was replayed {letter.replayed} times and came back; see to the cause, or raise --max-replays",
        )
    if letter.body is None:
        return Refusal(
            letter,
            Reason.BODY_TOO_LARGE.value,
            f"its body has {letter.body_bytes:,} bytes, which nobody reads",
        )
    try:
        body = _mended(letter.body, mending) if mending.changes_body else letter.body
        command = decode(body, _decisive(letter, mending))
        properties = _properties(letter, mending, message_id)
    except ContractError as error:
        return Refusal(letter, error.reason.value, error.detail)
    except _NotMendable as error:
        return Refusal(letter, UNREADABLE_BODY, str(error))
    if len(properties) > LONGEST_PROPERTIES_BYTES:
        return Refusal(
            letter,
            PROPERTIES_TOO_LARGE,
            f"with the count of replays its properties have {len(properties):,} bytes, more than a broker takes;"
            " let the producer publish again",
        )
    return Replay(letter, command, body, properties, message_id)


def parse_setting(text: str) -> tuple[str, str | int | bool]:
    """
    Read ``Property=value``, with the value as its property has it: names as they are, ids as digits, true or false.

    Raises:
        ValueError: It is none; the text says what would be one.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"must look like Property=value, such as AssociateId=42, not {text!r}")
    match name:
        case "Application" | "Instance":
            return name, value
        case "AssociateId":
            if not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
                raise ValueError(
                    f"AssociateId must be a whole number from 1 to 9223372036854775807, not {value!r}"
                )
            return name, int(value)
        case "ForAllAssociates":
            if value not in {"true", "false"}:
                raise ValueError(f"ForAllAssociates must be true or false, not {value!r}")
            return name, value == "true"
    raise ValueError(describe_unknown(name))


_MOST_DIGITS: Final = len(str(2**63 - 1))


class _NotMendable(Exception):
    """There is nothing to set properties in. The text says why."""


def _decisive(letter: DeadLetter, mending: Mending) -> Properties:
    """The properties by which the body will be read."""
    if mending.as_command:
        return COMMAND_PROPERTIES
    if not letter.is_readable:
        raise ContractError(
            Reason.UNREADABLE_PROPERTIES,
            "its properties can't be decoded; --as-command replays its body with those of a command instead",
        )
    return scan(letter.header)


def _properties(letter: DeadLetter, mending: Mending, message_id: str) -> bytes:
    header = letter.header if letter.is_readable else _NO_PROPERTIES
    instead = COMMAND_PROPERTIES._asdict() if mending.as_command else {}
    try:
        return encode_command(header, message_id=message_id, replayed=letter.replayed + 1, instead=instead)
    except MalformedTable as error:  # readable by the library, in a way that we are not sure of
        raise ContractError(
            Reason.UNREADABLE_PROPERTIES, "its properties are of no ordinary shape; try --as-command"
        ) from error


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, duplicates and all."""


def _mended(body: bytes, mending: Mending) -> bytes:
    """
    Set and leave out properties, wherever they stand and however often; all others stay, also wrong ones.

    A byte order mark goes, since the body is written anew.
    """
    pairs = _parse(body.removeprefix(codecs.BOM_UTF8))
    touched = mending.unset | mending.set.keys()
    kept = [(name, value) for name, value in pairs if name not in touched]
    try:
        return _write([*kept, *mending.set.items()]).encode()
    except RecursionError as error:  # what can just be read can be too deep to be written
        raise _NotMendable("its body is nested too deeply to be written anew; leave out what is") from error


def _parse(body: bytes) -> _Pairs:
    try:
        value = json.loads(body.decode(), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise _NotMendable("its body is not JSON in UTF-8, so nothing can be set in it") from error
    if not isinstance(value, _Pairs):
        raise _NotMendable("its body is not a JSON object, so nothing can be set in it")
    return value


def _write(pairs: list[tuple[str, Any]]) -> str:
    """JSON of a known order. What is nested is no command's, and only has to stay something wrong."""
    return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"
