"""``configcache dead-letters import``: bring exported letters back."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from configcache_worker.cli import CommandFailed, WrongUsage, add_config_option, load_settings, manual, say
from configcache_worker.cli.printing import counted, printable

if TYPE_CHECKING:
    from configcache_worker.settings import BrokerSettings

SUMMARY = "bring them back from a file"

_KEPT_IN_MEMORY_BYTES = 64 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the part to *parser*."""
    manual(
        parser,
        """
        Bring letters back into the dead-letter queue, from a file that `export` has
        written: body, properties and headers as they were, the id and the count of
        replays included. A `body` that was edited meanwhile is taken as it is.

        The whole file is read before the first letter is published; a line that is no
        letter ends it before anything has happened. Each letter is confirmed by the
        broker. Where that fails, or is interrupted, the number of letters that are in is
        told: import the lines behind them, of which the first may be in as well. A letter
        that is still in the queue is there twice afterwards.

        Of letters that the broker had dead-lettered itself, what would act on them
        (expiration, user_id, CC) moves to original-… headers, and x-death, which a
        broker takes from nobody, to original-x-death; `list` and `show` know it there. A
        message_id that can't be typed moves to original-message-id, for the letter's id.
        """,
        """
        settings: the section broker

        rights: write on the exchange configuration.dead-letter

        example:
          configcache dead-letters import old.ndjson
          gunzip < old.ndjson.gz | configcache dead-letters import -
        """,
    )
    parser.add_argument("file", metavar="FILE", help="what `export` has written; - for standard input")
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Read, check, publish."""
    broker = load_settings(args, "broker").broker
    with _opened(args.file) as file:
        _check(file)
        asyncio.run(_import(broker, file))
    return 0


def _check(file: BinaryIO) -> None:
    from configcache_worker.letters.moving import parse
    from configcache_worker.letters.records import NotALetter

    try:
        for _ in parse(file):
            pass
    except NotALetter as error:
        raise CommandFailed(f"{error}; nothing was imported") from error
    file.seek(0)


async def _import(broker: BrokerSettings, file: BinaryIO) -> None:
    from configcache.errors import PublishError
    from configcache_worker.letters.moving import bring_back, parse
    from configcache_worker.letters.opening import open_post

    count = 0
    async with open_post(broker) as post:
        try:
            async for _ in bring_back(parse(file), post.publish):
                count += 1
        except (PublishError, asyncio.CancelledError) as error:
            cause = str(error) or "interrupted"
            raise CommandFailed(
                f"{counted(count, 'letter')} imported, then: {cause}; import the lines behind them"
            ) from error
    say(f"{counted(count, 'letter')} imported")


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """The file *name*, to be read twice."""
    with contextlib.ExitStack() as stack:
        try:
            file = _standard_input() if name == "-" else stack.enter_context(Path(name).open("rb"))
            if name == "-" or not file.seekable():
                file = stack.enter_context(_copy_of(file))
        except OSError as error:
            raise WrongUsage(f"{printable(name)} can't be read: {error.strerror}") from error
        yield file


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # the process was started with a closed one
        raise WrongUsage("standard input can't be read: it is closed")
    return sys.stdin.buffer


@contextlib.contextmanager
def _copy_of(file: BinaryIO) -> Iterator[BinaryIO]:
    # In memory as long as that is bearable: a container may have nowhere to write to.
    with tempfile.SpooledTemporaryFile(max_size=_KEPT_IN_MEMORY_BYTES) as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield cast(BinaryIO, copy)
