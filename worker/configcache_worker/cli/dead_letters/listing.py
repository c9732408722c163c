"""``configcache dead-letters list``: dead letters, counted or one by one."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from configcache_worker.cli import add_config_option, load_settings, manual, say
from configcache_worker.cli.dead_letters.options import add_look_option
from configcache_worker.cli.printing import counted, moment, printable, table

if TYPE_CHECKING:
    from configcache_worker.letters.looking import Look
    from configcache_worker.letters.selection import Summary

SUMMARY = "count them by reason and producer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the part to *parser*."""
    manual(
        parser,
        """
        Count the dead letters by reason and producer, and tell when the first and the
        last of each group was dead-lettered (UTC). The producer is the message's
        app_id, else the broker's user who published it. Behind each group stands the
        id of one of its letters, for `show`.

        The reason is the word that the worker has written. Letters that the broker has
        dead-lettered itself have none: they are shown by what the broker says, with
        `rejected` as unreadable-properties.
        """,
        """
        settings: the section broker

        example:
          configcache dead-letters list
          configcache dead-letters list --letters --reason invalid-json
        """,
    )
    parser.add_argument("--letters", action="store_true", help="a line for each letter instead")
    parser.add_argument("--reason", metavar="WORD", help="only letters with this reason")
    parser.add_argument("--producer", metavar="NAME", help="only letters of this producer")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead: looked_at, more, groups, and with --letters the letters",
    )
    add_look_option(parser)
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Look, count, print."""
    broker = load_settings(args, "broker").broker

    from configcache_worker.letters.looking import look
    from configcache_worker.letters.selection import Selection

    selection = Selection(reason=args.reason, producer=args.producer)
    found = asyncio.run(look(broker, limit=args.look, selection=selection))
    if args.json:
        say(_as_json(found, each=args.letters))
    else:
        for line in _letters(found) if args.letters else groups_table(found.letters):
            say(line)
        for line in _beside(found):
            say(line)
    return 0


def groups_table(letters: Iterable[Summary]) -> list[str]:
    """A line for each reason and producer of *letters*, below a heading; no line for no letters."""
    from configcache_worker.letters.selection import group

    groups = group(letters)
    if not groups:
        return []
    return table(
        ["REASON", "PRODUCER", "LETTERS", "FIRST (UTC)", "LAST (UTC)", "FOR EXAMPLE"],
        [
            [
                printable(group.reason),
                printable(group.producer),
                f"{group.letters:,}",
                moment(group.first_ms),
                moment(group.last_ms),
                group.example,
            ]
            for group in groups
        ],
        right=[2],
    )


def _letters(found: Look) -> list[str]:
    if not found.letters:
        return []
    return table(
        ["ID", "REASON", "PRODUCER", "DEAD-LETTERED (UTC)", "REPLAYED", "BYTES"],
        [
            [
                letter.id,
                printable(letter.reason),
                printable(letter.producer),
                moment(letter.dead_lettered_at_ms),
                f"{letter.replayed:,}",
                f"{letter.body_bytes:,}",
            ]
            for letter in found.letters
        ],
        right=[4, 5],
    )


def _beside(found: Look) -> Iterator[str]:
    """What is to be known beside the table."""
    if not found.letters:
        yield "no dead letters" if not found.looked_at else "no such dead letters"
    if found.more:
        yield f"{counted(found.more, 'more letter')} not looked at; --look N looks at more"
    if found.missing:
        yield f"{counted(found.missing, 'letter')} there a moment ago did not come: try again"
    if found.others:
        yield f"somebody else is looking, too: what {counted(found.others, 'other consumer')} holds is not shown"


def _as_json(found: Look, *, each: bool) -> str:
    from configcache_worker.letters.records import to_json
    from configcache_worker.letters.selection import group

    document: dict[str, Any] = {
        "looked_at": found.looked_at,
        "more": found.more,
        "groups": [entry._asdict() for entry in group(found.letters)],
    }
    if each:
        document["letters"] = [letter._asdict() for letter in found.letters]
    return to_json(document, indent=2)
