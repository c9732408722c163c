"""``configcache dead-letters export``: write letters to a file."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from configcache_worker.cli import CommandFailed, WrongUsage, add_config_option, load_settings, manual, say
from configcache_worker.cli.dead_letters.options import (
    add_look_option,
    add_selectors,
    beyond,
    not_found,
    selection,
    whole_number,
)
from configcache_worker.cli.printing import counted, printable

if TYPE_CHECKING:
    from configcache_worker.letters.moving import Exported
    from configcache_worker.letters.selection import Selection
    from configcache_worker.rabbitmq.letter_box import LetterBox
    from configcache_worker.settings import BrokerSettings

SUMMARY = "write them to a file, a line of JSON each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the part to *parser*."""
    manual(
        parser,
        """
        Write letters as NDJSON: a line each, an object with id, reason, detail,
        producer, dead_lettered_at_ms, published_at_ms, replayed, exchange, routing_key,
        deaths, properties, headers, readable, body_bytes; the body as `body`, or as
        `body_base64` where it is not UTF-8; and in `encoded_properties`, base64, the
        properties byte by byte. `import` reads `id`, `body` or `body_base64`, and
        `encoded_properties`: nothing is lost on the way, whatever types the headers
        have. All else is for reading, by people and by jq.

        To standard output, or to a file that does not exist yet. The letters stay in
        the queue, unless --remove takes out, one by one, what is on the disk. Letters
        whose body is over 1 MiB can't be exported; they are left, and the exit code is 1.
        """,
        """
        settings: the section broker

        example:
          configcache dead-letters export | jq .reason
          configcache dead-letters export --reason invalid-json --output old.ndjson --remove
        """,
    )
    add_selectors(parser, required=False)
    parser.add_argument("--limit", metavar="N", type=whole_number(10**9), help="export at most N letters")
    parser.add_argument("--output", metavar="FILE", help="write to FILE, which must not exist yet")
    parser.add_argument(
        "--remove", action="store_true", help="take out of the queue what was written; with --output only"
    )
    add_look_option(parser)
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the letters, and take them out where that is asked for."""
    wanted = selection(args)
    if args.remove and args.output is None:
        raise WrongUsage("--remove needs --output: only what is in a file, on the disk, is taken out")
    broker = load_settings(args, "broker").broker
    asyncio.run(_export(broker, wanted, args))
    return 0


async def _export(broker: BrokerSettings, wanted: Selection, args: argparse.Namespace) -> None:
    from configcache_worker.letters.moving import export
    from configcache_worker.letters.opening import open_box

    async with open_box(broker, most=args.look) as box:
        with _sink(args.output) as sink:
            exported = await export(box, wanted, sink.write, most=args.limit)
            sink.settle()
        if args.remove:
            await _remove(box, exported, args.output)
        not_looked_at = await box.not_looked_at()
    _conclude(exported, args, missing=wanted.ids - exported.ids, not_looked_at=not_looked_at)


async def _remove(box: LetterBox, exported: Exported, output: str) -> None:
    """Take what was written out of the queue. Where that fails, say that it is written, and how much of it is out."""
    from configcache.errors import PublishError

    removed = 0
    try:
        for delivery in exported.written:
            await box.take_out(delivery)
            removed += 1
    except (PublishError, asyncio.CancelledError) as error:
        raise CommandFailed(
            f"{counted(len(exported.written), 'letter')} written to {printable(output)}, and {removed:,} taken out of the"
            f" queue, then: {str(error) or 'interrupted'}; the others are in both"
        ) from error


def _conclude(
    exported: Exported, args: argparse.Namespace, *, missing: frozenset[str], not_looked_at: int
) -> None:
    if args.output is not None:
        removed = ", and taken out of the queue" if args.remove else ""
        say(f"{counted(len(exported.written), 'letter')} written to {printable(args.output)}{removed}")
    if not_looked_at:
        _note(beyond(not_looked_at))
    if missing:
        raise CommandFailed(not_found(missing))
    if exported.left_out:
        raise CommandFailed(
            f"not written, because nobody reads a body of more than 1 MiB: {', '.join(exported.left_out)}"
        )


class _Sink(Protocol):
    """Where lines go."""

    def write(self, line: str) -> None: ...
    def settle(self) -> None:
        """Make sure that all lines will outlast this process and this machine."""
        ...


class _Output:
    """Standard output."""

    def write(self, line: str) -> None:
        say(line)

    def settle(self) -> None:
        """Each line was written at once."""


class _File:
    """A new file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, line: str) -> None:
        self._file.write(line.encode("ascii") + b"\n")

    def settle(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name, too
        finally:
            os.close(folder)


@contextlib.contextmanager
def _sink(output: str | None) -> Iterator[_Sink]:
    if output is None:
        yield _Output()
        return
    path = Path(output)
    try:
        with path.open("xb") as file:
            yield _File(file, path)
    except FileExistsError as error:
        raise WrongUsage(
            f"{printable(output)} exists already, and might be all that is left of letters"
        ) from error
    except OSError as error:
        raise CommandFailed(f"can't write {printable(output)}: {error.strerror}") from error


def _note(text: str) -> None:
    """Tell *text* beside the output, which is somebody's data."""
    if sys.stderr is not None:
        print(f"configcache dead-letters: {text}", file=sys.stderr, flush=True)
