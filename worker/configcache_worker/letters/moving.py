"""Write dead letters out, and bring them back."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from configcache.topology import DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY
from configcache_worker.core.ports import Delivery
from configcache_worker.letters.letter import read_letter
from configcache_worker.letters.records import LONGEST_LINE_BYTES, NotALetter, from_line, to_line
from configcache_worker.letters.replaying import Publish
from configcache_worker.letters.selection import Selection
from configcache_worker.rabbitmq.copies import encode_imported
from configcache_worker.rabbitmq.letter_box import LetterBox
from configcache_worker.rabbitmq.properties import MalformedTable


class Copy(NamedTuple):
    """A letter on its way back into the queue."""

    body: bytes
    properties: bytes
    """Flags and properties as on the wire."""
    message_id: str


@dataclass(slots=True)
class Exported:
    """What an export has done."""

    written: list[Delivery] = field(default_factory=list)
    """What to take out if the letters are to be removed; without their bytes."""
    left_out: list[str] = field(default_factory=list)
    """Ids of letters whose body nobody has kept, so that they can't be written."""
    ids: set[str] = field(default_factory=set)
    """Of all letters that were meant."""


async def export(
    box: LetterBox, selection: Selection, write: Callable[[str], None], *, most: int | None = None
) -> Exported:
    """
    Write the letters in *box* that *selection* means, and leave them there.

    Args:
        box: Where the letters are.
        selection: Which are meant.
        write: Takes each as a line, without its end.
        most: Lines to write at most; None: all that are meant.
    """
    exported = Exported()
    async for delivery in box:
        letter = read_letter(delivery)
        if not selection.includes(letter):
            continue
        exported.ids.add(letter.id)
        if letter.body is None:
            exported.left_out.append(letter.id)
        else:
            write(to_line(letter))
            exported.written.append(delivery._replace(body=b"", envelope=None, size=0))
        if len(exported.written) == most:
            break
    return exported


def parse(lines: BinaryIO) -> Iterator[Copy]:
    """
    The letters that *lines* bring back.

    Raises:
        NotALetter: A line that is none; the text begins with its number.
    """
    number = 0
    while line := lines.readline(LONGEST_LINE_BYTES + 1):
        number += 1
        if not line.strip():
            continue
        try:
            copy = _copy(line)
        except NotALetter as error:
            raise NotALetter(f"line {number:,} {error}") from error
        yield copy


def _copy(line: bytes) -> Copy:
    if len(line) > LONGEST_LINE_BYTES:
        raise NotALetter("is longer than any letter's")
    record = from_line(line)
    try:
        message_id, properties = encode_imported(record.header, id_otherwise=record.id or uuid.uuid4().hex)
    except MalformedTable as error:
        raise NotALetter('has an "encoded_properties" that is no AMQP') from error
    return Copy(record.body, properties, message_id)


async def bring_back(copies: Iterable[Copy], publish: Publish) -> AsyncIterator[Copy]:
    """
    Publish *copies* to the dead letters, one after the other; each that is given is confirmed.

    Raises:
        PublishError: The broker did not take one. It and all after it are not there, or it alone is, unconfirmed.
    """
    for copy in copies:
        await publish(
            copy.body,
            copy.properties,
            message_id=copy.message_id,
            exchange=DEAD_LETTER_EXCHANGE,
            routing_key=DEAD_LETTER_ROUTING_KEY,
        )
        yield copy
