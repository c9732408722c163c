"""``configcache dead-letters discard``: throw letters away."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from configcache_worker.cli import (
    CommandFailed,
    WrongUsage,
    add_config_option,
    load_settings,
    manual,
    say,
)
from configcache_worker.cli.dead_letters.listing import groups_table
from configcache_worker.cli.dead_letters.options import (
    add_look_option,
    add_selectors,
    beyond,
    not_found,
    selection,
    whole_number,
    with_more,
)
from configcache_worker.cli.printing import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from configcache_worker.letters.discarding import Held
    from configcache_worker.letters.selection import Selection
    from configcache_worker.settings import BrokerSettings

SUMMARY = "throw them away"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the part to *parser*."""
    manual(
        parser,
        """
        Throw letters away. Nothing brings them back: `export` them first where somebody
        may ask for them.

        What is meant is counted first, and you are asked whether you mean it; --yes
        answers for you, and is required where nobody can be asked. Nobody else can take
        the letters meanwhile, and what you have seen is what goes, one by one.
        """,
        """
        settings: the section broker

        example:
          configcache dead-letters discard --reason invalid-json --producer old-script
          configcache dead-letters discard --all --yes
        """,
    )
    add_selectors(parser, required=True)
    parser.add_argument("--limit", metavar="N", type=whole_number(10**9), help="discard at most N letters")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_look_option(parser)
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Show what is meant, ask, discard."""
    wanted = selection(args)
    if not args.yes and not _can_ask():
        raise WrongUsage("nobody can be asked whether to discard: say --yes")
    broker = load_settings(args, "broker").broker
    asyncio.run(_discard(broker, wanted, args))
    return 0


async def _discard(broker: BrokerSettings, wanted: Selection, args: argparse.Namespace) -> None:
    from configcache.errors import BrokerUnavailable
    from configcache_worker.letters.discarding import hold, take_out
    from configcache_worker.letters.opening import open_box

    gone = 0
    async with open_box(broker, most=args.look) as box:
        held = await hold(box, wanted, most=args.limit)
        _check(held, wanted)
        more = await box.not_looked_at()
        if not held:
            say(with_more("no such dead letters", more))
            return
        if not args.yes and not await _agreed(held, more):
            say("nothing was discarded")
            return
        try:
            async for _ in take_out(box, held):
                gone += 1
        except (BrokerUnavailable, asyncio.CancelledError) as error:
            cause = str(error) or "interrupted"
            raise CommandFailed(f"{counted(gone, 'letter')} discarded, then: {cause}") from error
    say(with_more(f"{counted(gone, 'letter')} discarded", more))


def _check(held: Sequence[Held], wanted: Selection) -> None:
    if missing := wanted.ids - {one.summary.id for one in held}:
        raise CommandFailed(f"{not_found(missing)}; nothing was discarded")


async def _agreed(held: Sequence[Held], more: int) -> bool:
    for line in groups_table(one.summary for one in held):
        say(line)
    if more:
        say(beyond(more))
    say(f"Discard {counted(len(held), 'letter')} for ever? Type yes:")
    return (await _answer()).strip().lower() == "yes"


async def _answer() -> str:
    """The line that is typed. The connection stays alive meanwhile, and an interrupt is heard."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        if not typed.done():
            typed.set_result(sys.stdin.readline())

    loop.add_reader(sys.stdin, read)
    try:
        return await typed
    finally:
        loop.remove_reader(sys.stdin)


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()
