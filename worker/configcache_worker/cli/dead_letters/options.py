"""Options that the parts of ``configcache dead-letters`` share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from configcache_worker.cli import WrongUsage
from configcache_worker.cli.printing import printable
from configcache_worker.letters.bounds import MOST_LOOKED_AT, USUAL_LOOK

if TYPE_CHECKING:
    from configcache import ClearConfigurationCache
    from configcache_worker.letters.selection import Selection


def add_look_option(parser: argparse.ArgumentParser) -> None:
    """How many letters to look at."""
    parser.add_argument(
        "--look",
        metavar="N",
        type=whole_number(MOST_LOOKED_AT),
        default=USUAL_LOOK,
        help=f"hold at most N letters at a time, from 1 to {MOST_LOOKED_AT} (default: {USUAL_LOOK}); "
        "those that are taken out of the queue make room for further ones",
    )


def add_selectors(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Which letters are meant; *required*: something must be said."""
    parser.set_defaults(selectors_required=required)
    parser.add_argument(
        "ids", metavar="ID", nargs="*", help="letters by their ids, as `list` and `show` print them"
    )
    parser.add_argument("--reason", metavar="WORD", help="letters with this reason")
    parser.add_argument("--producer", metavar="NAME", help="letters of this producer")
    if required:
        parser.add_argument("--all", action="store_true", help="all letters")


def selection(args: argparse.Namespace) -> Selection:
    """
    What the selectors say.

    Raises:
        WrongUsage: Nothing, where something is required; all and something; or ids and a limit.
    """
    from configcache_worker.letters.selection import Selection

    chosen = Selection(frozenset(args.ids), args.reason, args.producer)
    if args.ids and args.limit is not None:
        raise WrongUsage("--limit is for letters by --reason, --producer or --all: of ids, all are meant")
    if args.selectors_required:
        if args.all and chosen != Selection():
            raise WrongUsage("--all means all letters: leave it out, or the other selectors")
        if not args.all and chosen == Selection():
            raise WrongUsage("say which letters: ids, --reason, --producer, or --all")
    return chosen


def not_found(ids: Iterable[str]) -> str:
    """Say that no letter has these *ids*."""
    return (
        f"not found: {', '.join(map(printable, sorted(ids)))}; no letter that was looked at has this id"
        " (`list --letters` prints them, --look N looks at more)"
    )


def beyond(not_looked_at: int) -> str:
    """Say that there were more letters."""
    return f"{not_looked_at:,} more in the queue were not looked at; --look N looks at more"


def with_more(text: str, not_looked_at: int) -> str:
    """*text*, and behind it whether there were more letters."""
    return f"{text}; {beyond(not_looked_at)}" if not_looked_at else text


def effect(command: ClearConfigurationCache) -> str:
    """What *command* does, for a terminal."""
    whose = "all associates" if command.for_all_associates else f"associate {command.associate_id}"
    return f"clear {printable(command.application)} / {printable(command.instance)} for {whose}"


def whole_number(most: int) -> Callable[[str], int]:
    """A type of arguments: from 1 to *most*."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= most):
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {most}, not {text}")
        return int(text)

    return parse
