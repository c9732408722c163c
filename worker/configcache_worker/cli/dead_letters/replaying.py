"""``configcache dead-letters replay``: publish letters as commands again, and take them out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from typing import TYPE_CHECKING

from configcache_worker.cli import (
    CommandFailed,
    WrongUsage,
    add_config_option,
    load_settings,
    manual,
    say,
    until_stopped,
)
from configcache_worker.cli.dead_letters.options import (
    add_look_option,
    add_selectors,
    effect,
    not_found,
    selection,
    whole_number,
    with_more,
)
from configcache_worker.cli.printing import counted, printable
from configcache_worker.letters.bounds import MAX_REPLAYS, USUAL_RATE_PER_S

if TYPE_CHECKING:
    from configcache_worker.letters.mending import Mending, Refusal, Replay
    from configcache_worker.letters.replaying import Replaying
    from configcache_worker.letters.selection import Selection
    from configcache_worker.settings import BrokerSettings

SUMMARY = "publish them as commands again, mended where that is asked for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the part to *parser*."""
    manual(
        parser,
        """
        Publish letters as commands again.

        Each is checked against the contract first, after it has been mended. One that a
        worker would refuse again is not published: it is named with its reason, stays
        where it is, and makes the exit code 1. The others are published one after the
        other: confirmed by the broker and routed to the queue, and only then taken out
        of the dead letters. So an interrupted replay loses nothing, and at most one
        letter stays whose command was published: a clear done twice, which is harmless.
        At SIGTERM and SIGINT the letter in hand is finished; run it again for the rest.

        A command keeps the properties and headers of its first publish: app_id,
        correlation id, traceparent, and published-at too, so that its lag is the true
        one. It gets a message_id of its own, and the header `replayed` counts how often
        it was replayed. A letter that came back three times is refused, since it would
        come back again.
        """,
        """
        settings: the section broker

        example:
          configcache dead-letters replay --all --dry-run
          configcache dead-letters replay --reason missing-associate --producer shop \\
            --set ForAllAssociates=true
          configcache dead-letters replay 0b8d0ad1ce0f4d3b9d5f3a8a4f6f7a10 \\
            --unset ForAllAssociate --set ForAllAssociates=true
        """,
    )
    add_selectors(parser, required=True)
    parser.add_argument("--limit", metavar="N", type=whole_number(10**9), help="replay at most N letters")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done; publish and take out nothing"
    )
    parser.add_argument(
        "--set",
        metavar="PROPERTY=VALUE",
        action="append",
        default=[],
        type=_setting,
        help="set a property of the body first, such as AssociateId=42; may be repeated",
    )
    parser.add_argument(
        "--unset",
        metavar="PROPERTY",
        action="append",
        default=[],
        help="leave out a property of the body first, of any name; may be repeated",
    )
    parser.add_argument(
        "--as-command",
        action="store_true",
        help="publish with the type and content type of a command, whatever the letter has: for bodies that are commands "
        "and were sent with wrong or unreadable properties",
    )
    parser.add_argument(
        "--rate",
        metavar="PER_SECOND",
        type=_rate,
        default=USUAL_RATE_PER_S,
        help=f"replay at most so many letters a second (default: {USUAL_RATE_PER_S:g})",
    )
    parser.add_argument(
        "--max-replays",
        metavar="N",
        type=whole_number(10**6),
        default=MAX_REPLAYS,
        help=f"refuse letters that were replayed N times before (default: {MAX_REPLAYS})",
    )
    add_look_option(parser)
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Replay, and say what became of each letter."""
    wanted = selection(args)
    mending = _mending(args)
    broker = load_settings(args, "broker").broker
    asyncio.run(_replay(broker, wanted, mending, args))
    return 0


async def _replay(
    broker: BrokerSettings, wanted: Selection, mending: Mending, args: argparse.Namespace
) -> None:
    from configcache.errors import PublishError
    from configcache_worker.letters.opening import open_box, open_post
    from configcache_worker.letters.replaying import Replaying

    seen: set[str] = set()

    def report(outcome: Replay | Refusal) -> None:
        seen.add(outcome.letter.id)
        say(_line(outcome, dry=args.dry_run))

    async with contextlib.AsyncExitStack() as stack:
        box = await stack.enter_async_context(open_box(broker, most=args.look))
        post = None if args.dry_run else await stack.enter_async_context(open_post(broker))
        replaying = Replaying(
            box,
            None if post is None else post.publish,
            report,
            selection=wanted,
            mending=mending,
            most=args.limit,
            rate_per_s=args.rate,
        )
        try:
            await until_stopped(replaying)
        except PublishError as error:
            raise CommandFailed(
                f"{replaying.tally.replayed:,} replayed, then: {error}\n"
                "the other letters are where they were; run it again for them"
            ) from error
        not_looked_at = await box.not_looked_at()
    _conclude(replaying, not_looked_at=not_looked_at, missing=wanted.ids - seen, dry=args.dry_run)


def _line(outcome: Replay | Refusal, *, dry: bool) -> str:
    from configcache_worker.letters.mending import Refusal

    if isinstance(outcome, Refusal):
        verb = "would refuse" if dry else "refused"
        return f"{verb} {outcome.letter.id}: {outcome.reason}: {printable(outcome.detail)}"
    return f"{'would replay' if dry else 'replayed'} {outcome.letter.id}: {effect(outcome.command)}"


def _conclude(replaying: Replaying, *, not_looked_at: int, missing: frozenset[str], dry: bool) -> None:
    """Say how it went as a whole, and fail where not all that was meant is replayed."""
    tally = replaying.tally
    say(
        with_more(
            f"{counted(tally.replayed, 'letter')} {'would be ' if dry else ''}replayed, {tally.refused:,} refused",
            not_looked_at,
        )
    )
    if replaying.is_stopped:
        raise CommandFailed("stopped; the other letters are where they were, run it again for them")
    if missing:
        raise CommandFailed(not_found(missing))
    if tally.refused:
        raise CommandFailed(f"{counted(tally.refused, 'letter')} refused, and left in the dead letters")


def _mending(args: argparse.Namespace) -> Mending:
    from configcache_worker.letters.mending import Mending

    set_ = dict(args.set)
    if both := set_.keys() & set(args.unset):
        raise WrongUsage(f"{', '.join(sorted(both))}: set or left out, not both")
    return Mending(set_, frozenset(args.unset), args.as_command, args.max_replays)


def _setting(text: str) -> tuple[str, str | int | bool]:
    from configcache_worker.letters.mending import parse_setting

    try:
        return parse_setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number greater than 0, not {text}")
    return rate
