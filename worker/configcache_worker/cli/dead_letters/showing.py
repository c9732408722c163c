"""``configcache dead-letters show``: everything about a letter."""

from __future__ import annotations

import argparse
import asyncio
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from configcache_worker.cli import CommandFailed, add_config_option, load_settings, manual, say
from configcache_worker.cli.dead_letters.options import (
    add_look_option,
    add_selectors,
    effect,
    not_found,
    selection,
    whole_number,
    with_more,
)
from configcache_worker.cli.printing import counted, moment, printable

if TYPE_CHECKING:
    from configcache_worker.letters.letter import DeadLetter
    from configcache_worker.letters.selection import Selection
    from configcache_worker.rabbitmq.values import Value
    from configcache_worker.settings import BrokerSettings

SUMMARY = "tell everything about some of them"

_BODY_BYTES_SHOWN = 4096
_VALUE_SHOWN = 500
_USUALLY_SHOWN = 10
_LABEL_WIDTH = 12
_WHEN_WIDTH = len("2026-01-01 00:00:00 UTC")
_LINE_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the part to *parser*."""
    manual(
        parser,
        """
        Show letters: reason, producer, history, AMQP properties and headers, the body,
        what a replay as it is would do, and what can be done about it.

        Whatever a letter contains is safe to look at: properties that no AMQP library
        can decode are shown as far as they can be read, bytes that are no text as \\xff,
        and control characters are escaped, so that none reaches the terminal. A long
        body is cut after 4,096 bytes, unless --full asks for all of it.
        """,
        """
        settings: the section broker

        example:
          configcache dead-letters show 0b8d0ad1ce0f4d3b9d5f3a8a4f6f7a10
          configcache dead-letters show --reason invalid-json --limit 1
        """,
    )
    add_selectors(parser, required=False)
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole_number(10**9),
        help=f"show at most N letters (default: {_USUALLY_SHOWN}; of ids, all)",
    )
    parser.add_argument("--full", action="store_true", help="show the whole of long bodies and values")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead: a line for each letter, as `export` writes it",
    )
    add_look_option(parser)
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Find the letters, and show them."""
    wanted = selection(args)
    broker = load_settings(args, "broker").broker
    shown = asyncio.run(_show(broker, wanted, args))
    if missing := wanted.ids - shown:
        raise CommandFailed(not_found(missing))
    return 0


async def _show(broker: BrokerSettings, wanted: Selection, args: argparse.Namespace) -> set[str]:
    """Show what is wanted, and return the ids of what was there."""
    from configcache_worker.letters.looking import read
    from configcache_worker.letters.opening import open_box
    from configcache_worker.letters.records import to_line

    count, shown = 0, set()
    limit = args.limit or (None if wanted.ids else _USUALLY_SHOWN)
    async with open_box(broker, most=args.look) as box:
        async for letter in read(box, wanted):
            if count == limit:
                if not args.json:
                    say("there are more; --limit N shows more")
                break
            count += 1
            shown.add(letter.id)
            say(to_line(letter) if args.json else "\n".join(describe(letter, full=args.full)) + "\n")
        if not shown and not wanted.ids and not args.json:
            say(with_more("no such dead letters", await box.not_looked_at()))
    return shown


def describe(letter: DeadLetter, *, full: bool) -> Iterator[str]:
    """Lines about *letter* for a terminal; not *full*: long values are cut, and say so."""
    from configcache_worker.letters.advice import advise

    yield f"letter {letter.id}"
    yield from _row("reason", printable(letter.reason))
    yield from _row("detail", printable(letter.detail or "-"))
    yield from _row("producer", printable(letter.producer))
    for number, event in enumerate(_history(letter)):
        yield from _row("" if number else "history", event)
    yield from _values("properties", letter.properties, full=full)
    yield from _values("headers", _shown_headers(letter), full=full)
    yield from _body(letter, full=full)
    yield from _row("replay", _prospect(letter))
    yield from _row("what to do", advise(letter))


def _row(label: str, text: str) -> list[str]:
    indent = " " * (_LABEL_WIDTH + 2)
    lines = textwrap.wrap(text, _LINE_WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    first, *others = lines or [""]
    return [f"  {label.ljust(_LABEL_WIDTH)}{first}", *(indent + line for line in others)]


def _history(letter: DeadLetter) -> Iterator[str]:
    """What happened to it, in the order in which it did."""
    where = f" to exchange {printable(letter.exchange)}" if letter.exchange else ""
    key = f", routing key {printable(letter.routing_key)}" if letter.routing_key else ""
    yield f"{_when(letter.published_at_ms)}  published{where}{key}"
    if letter.replayed:
        yield f"{_when(None)}  replayed before, {counted(letter.replayed, 'time')}"
    for death in reversed(letter.deaths):
        yield (
            f"{_when(death.at_ms)}  dead-lettered by the broker, {counted(death.times, 'time')}:"
            f" {printable(death.reason)} in {printable(death.queue)}"
        )
    if "dead-letter-reason" in letter.headers:
        yield f"{_when(letter.dead_lettered_at_ms)}  dead-lettered by a worker: {printable(letter.reason)}"


def _when(milliseconds: int | None) -> str:
    text = "at some time" if milliseconds is None else f"{moment(milliseconds)} UTC"
    return text.ljust(_WHEN_WIDTH)


def _shown_headers(letter: DeadLetter) -> dict[str, Value]:
    """By name, since brokers keep no order; without the count of looks."""
    from configcache_worker.letters.letter import COUNTERS

    return {name: value for name, value in sorted(letter.headers.items()) if name.encode() not in COUNTERS}


def _values(label: str, values: Mapping[str, Value], *, full: bool) -> Iterator[str]:
    from configcache_worker.letters.records import to_json

    if not values:
        yield from _row(label, "none")
        return
    yield f"  {label}"
    width = max(len(printable(name)) for name in values)
    for name, value in values.items():
        text = printable(value) if isinstance(value, str) else to_json(value)
        yield f"    {printable(name).ljust(width)}  {_cut(text, full=full)}"


def _cut(text: str, *, full: bool) -> str:
    if full or len(text) <= _VALUE_SHOWN:
        return text
    return f"{text[:_VALUE_SHOWN]}… ({len(text):,} characters; --full shows all)"


def _body(letter: DeadLetter, *, full: bool) -> Iterator[str]:
    yield f"  body, {counted(letter.body_bytes, 'byte')}"
    if letter.body is None:
        yield "    (too long to be kept: nobody reads more than 1 MiB)"
        return
    end = len(letter.body) if full else _cut_between_characters(letter.body, _BODY_BYTES_SHOWN)
    for line in letter.body[:end].decode(errors="backslashreplace").split("\n"):
        yield f"    {printable(line)}"
    if end < len(letter.body):
        yield f"    … ({len(letter.body) - end:,} bytes more; --full shows all)"


def _cut_between_characters(body: bytes, most: int) -> int:
    """Where to cut *body*, at *most* or a little before, to cut no UTF-8 character in two."""
    if len(body) <= most:
        return len(body)
    return next((end for end in range(most, most - 4, -1) if body[end] & 0xC0 != 0x80), most)


def _prospect(letter: DeadLetter) -> str:
    """What a replay as it is would do."""
    from configcache_worker.letters.mending import AS_IT_IS, Refusal, prepare

    outcome = prepare(letter, AS_IT_IS, message_id="none")
    if isinstance(outcome, Refusal):
        return f"refused as it is: {outcome.reason}: {outcome.detail}"
    return f"accepted as it is: {effect(outcome.command)}"
