"""``configcache status``: one look at a whole system, or one every few seconds."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from configcache_worker.cli import (
    CommandFailed,
    add_config_option,
    load_settings,
    manual,
    say,
    seconds,
)

if TYPE_CHECKING:
    from configcache_worker.status import Looker, Report, Thresholds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Show a whole system as it is at this moment: what answers as broker, how many
        commands wait, how many workers consume, dead letters by reason, what answers as
        database and whether it can be written, cached rows and those being built, and
        what waits in the outbox. Nothing is changed.

        Each part has a verdict, and below the table stands why:
          ok         well
          unknown    not found out: a right is missing, or a server does not answer
          attention  commands are cleared, but somebody should look: dead letters wait,
                     too many commands wait, or rows of the outbox for too long
          broken     commands are not cleared, or would not be: a server does not answer,
                     a queue or the table is missing, nobody consumes, the database
                     can't be written
        Ends with 1 where any part is broken or needs attention, else with 0; what is
        unknown does not fail.

        With --watch it looks again and again until Ctrl-C or SIGTERM, then ends with 0
        whatever it saw. Servers may go and come back meanwhile.

        Commands that a worker holds do not count as waiting, which are up to its
        worker.prefetch. Above 100,000 rows of the cache the planner's estimate is told.
        Of dead letters the first 1,000 are looked at; they stay where they are, but are
        held for a moment. With --watch that happens only when there are more or fewer.

        Rights, beside connecting. Broker: none up to RabbitMQ 4.2, since 4.3 any on
        both queues; to tell reasons, read on the dead-letter queue. Database: SELECT on
        the cache and on the outbox, and DELETE on the cache to try a clear. What a user
        or a role may not see is left out, and named. The management API is not needed.
        """,
        """
        settings: the sections broker, database, cache

        example:
          CONFIGCACHE_BROKER__URL=amqp://operator:secret@localhost/ \\
          CONFIGCACHE_DATABASE__URL=postgresql://operator:secret@localhost/app \\
          configcache status --watch
        """,
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=seconds,
        const=5.0,
        help="look again so often (default: 5), until Ctrl-C",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead; with --watch, one object on a line for each look",
    )
    parser.add_argument(
        "--waiting",
        metavar="COUNT",
        type=_count,
        default=10_000,
        help="more commands than this in the queue need attention (default: 10000)",
    )
    parser.add_argument(
        "--backlog",
        metavar="SECONDS",
        type=seconds,
        default=60.0,
        help="a row of the outbox older than this needs attention (default: 60)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=5.0,
        help="longest time for all that is asked of one server (default: 5)",
    )
    add_config_option(parser)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Look, print, and judge; or watch."""
    settings = load_settings(args, "broker", "database", "cache")

    from configcache_worker.status import Looker, Thresholds

    look = partial(
        _report,
        Looker(settings, patience_s=args.timeout),
        Thresholds(waiting=args.waiting, backlog_s=args.backlog),
    )
    if args.watch is not None:
        asyncio.run(_watch(look, every_s=args.watch, as_json=args.json))
        return 0
    report = asyncio.run(look())
    say(_text(report, as_json=args.json))
    if report.verdict.needs_somebody:
        raise CommandFailed(report.summary)
    return 0


async def _report(looker: Looker, thresholds: Thresholds) -> Report:
    from configcache_worker.status import judged

    return judged(await looker.look(), thresholds)


def _text(report: Report, *, as_json: bool, indent: int | None = 2) -> str:
    from configcache_worker.status.document import in_json
    from configcache_worker.status.screen import in_text

    return in_json(report, indent=indent) if as_json else in_text(report, on_terminal=_on_terminal())


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


async def _watch(look: Callable[[], Awaitable[Report]], *, every_s: float, as_json: bool) -> None:
    """Look and show until a signal comes; a second one does not wait for servers that are slow to say good-bye."""

    async def watch() -> None:
        with _shown(as_json=as_json) as show:
            while True:
                show(await look())
                await asyncio.sleep(every_s)

    watching = asyncio.create_task(watch(), name="watch")
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, watching.cancel)
    await asyncio.wait({watching})
    if not watching.cancelled():
        watching.result()


@contextlib.contextmanager
def _shown(*, as_json: bool) -> Iterator[Callable[[Report], None]]:
    """Shows one report after the other: on a terminal in the same place, elsewhere below each other."""
    if as_json or not _on_terminal():
        yield lambda report: say(_text(report, as_json=as_json, indent=None) + ("" if as_json else "\n"))
        return

    from rich.live import Live
    from rich.text import Text

    from configcache_worker.status.screen import screen

    last: Report | None = None

    def show(report: Report) -> None:
        nonlocal last
        last = report
        live.update(screen(report, footer="Ctrl-C ends"), refresh=True)

    try:
        # The other screen of the terminal: what stood there before is there again afterwards.
        with Live(Text("looking at broker and database ..."), screen=True, auto_refresh=False) as live:
            live.refresh()
            yield show
    finally:
        if last is not None:
            say(_text(last, as_json=False))
