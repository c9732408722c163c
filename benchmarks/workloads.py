"""
What is published, over which rows. Pure: bodies of messages, and the SQL that fills the table.

Every backlog begins and ends with a command that alone clears its row. The two are the observer's marks: the first row
gone starts the clock, the last one stops it. Between them the commands come in a random order, always the same one:
ascending associates would flatter whoever sorts.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from configcache import ClearConfigurationCache
from configcache.wire import encode

APPLICATION: Final = "WebClient"
INSTANCE: Final = "Web"
_SEED: Final = 1
_T = TypeVar("_T")


class Mark(NamedTuple):
    """A row that one command clears, by which an observer sees how far the worker is."""

    instance: str
    associate: int

    @property
    def body(self) -> bytes:
        """The command."""
        return for_associate(self.associate, instance=self.instance)


# A batch may be cleared in several transactions, in the order of keys: these come before and after all others.
FIRST_MARK: Final = Mark("!", 9_000_000_001)
LAST_MARK: Final = Mark("~", 9_000_000_002)
MARKS: Final = (FIRST_MARK, LAST_MARK)


@dataclass(frozen=True)
class Workload:
    """A backlog and the table it finds."""

    name: str
    title: str
    fill: str
    """SQL that puts the rows in; the two marks are not among them."""
    rows: int
    """How many it puts in."""
    build: Callable[[], list[bytes]]
    """Makes the bodies between the marks."""
    poison: int = 0
    """How many of them can never succeed."""
    clears: int | None = None
    """How many rows they clear; None for all."""
    has_one_row_each: bool = False
    """Whether each message clears one row."""

    @property
    def fills(self) -> tuple[str, ...]:
        """All of the SQL."""
        marks = ", ".join(
            f"('{APPLICATION}', '{mark.instance}', {mark.associate}, 'Contact', '<configuration/>')"
            for mark in MARKS
        )
        columns = "application, instance, associate_id, item, xml"
        return (self.fill, f"INSERT INTO configuration_cache ({columns}) VALUES {marks}")

    def bodies(self) -> list[bytes]:
        """The backlog."""
        return [FIRST_MARK.body, *self.build(), LAST_MARK.body]

    @property
    def rows_left(self) -> int:
        """How many rows there are when all is done."""
        return 0 if self.clears is None else self.rows - self.clears


def for_associate(associate: int, application: str = APPLICATION, instance: str = INSTANCE) -> bytes:
    """The body of a command for one associate, as :func:`configcache.wire.encode` writes it, but sooner."""
    return b'{"Application":"%b","Instance":"%b","ForAllAssociates":false,"AssociateId":%d}' % (
        application.encode(),
        instance.encode(),
        associate,
    )


def associates(count: int) -> list[int]:
    """The first *count* associates, in the order of the commands for them."""
    return _shuffled(range(1, count + 1))


def distinct(count: int, *, table_rows: int | None = None) -> Workload:
    """*count* commands for as many associates, of the *table_rows* that the table has."""
    rows = table_rows or count
    return Workload(
        "distinct",
        "distinct commands",
        _one_scope(rows),
        rows,
        lambda: [for_associate(associate) for associate in associates(rows)[:count]],
        clears=count,
        has_one_row_each=True,
    )


def duplicates(count: int, percent: int) -> Workload:
    """*count* commands of which *percent* repeat another one."""
    rows = count * (100 - percent) // 100

    def build() -> list[bytes]:
        return [for_associate(number % rows + 1) for number in _shuffled(range(count))]

    return Workload(f"duplicates-{percent}", f"{percent} % duplicates", _one_scope(rows), rows, build)


def mixed(count: int) -> Workload:
    """One command in 20 is for all associates of its scope, the others for one of them."""
    scopes = count // 20

    def build() -> list[bytes]:
        everyone = [
            encode(ClearConfigurationCache.for_all(APPLICATION, f"Web{n}")) for n in range(1, scopes + 1)
        ]
        singles = [
            for_associate(associate, instance=f"Web{n}")
            for n in range(1, scopes + 1)
            for associate in range(1, 20)
        ]
        return _shuffled([*everyone, *singles])

    fill = _rows(
        "'WebClient'", "'Web' || s", f"generate_series(1, {scopes}) AS s, generate_series(1, 20) AS a"
    )
    return Workload("mixed", "one in 20 for all associates", fill, scopes * 20, build)


def scopes(count: int, pairs: int = 50) -> Workload:
    """*count* distinct commands over *pairs* pairs of application and instance."""
    each = count // pairs

    def build() -> list[bytes]:
        return _shuffled(
            [
                for_associate(associate, f"Client{n % 10}", f"Web{n}")
                for n in range(1, pairs + 1)
                for associate in range(1, each + 1)
            ]
        )

    source = f"generate_series(1, {pairs}) AS s, generate_series(1, {each}) AS a"
    fill = _rows("'Client' || s % 10", "'Web' || s", source)
    return Workload(f"scopes-{pairs}", f"{pairs} scopes mixed", fill, each * pairs, build)


def large_rows(count: int, kilobytes: int) -> Workload:
    """*count* distinct commands for rows whose XML has so many KB, and does not get smaller by compression."""
    fill = "ALTER TABLE configuration_cache ALTER xml SET STORAGE EXTERNAL;" + _one_scope(
        count, xml=f"repeat('x', {kilobytes * 1024})"
    )
    return Workload(
        f"xml-{kilobytes}k",
        f"XML of {kilobytes} KB a row",
        fill,
        count,
        lambda: [for_associate(associate) for associate in associates(count)],
        has_one_row_each=True,
    )


def large_scopes(count: int, rows: int = 10_000) -> Workload:
    """*count* commands, each for all of a scope of *rows* rows."""

    def build() -> list[bytes]:
        return [
            encode(ClearConfigurationCache.for_all(APPLICATION, f"Web{n}"))
            for n in _shuffled(range(1, count + 1))
        ]

    source = f"generate_series(1, {count}) AS s, generate_series(1, {rows}) AS a"
    fill = _rows("'WebClient'", "'Web' || s", source)
    return Workload(f"scopes-of-{rows}", f"scopes of {rows:,} rows", fill, count * rows, build)


def poisoned(count: int, percent: int = 1) -> Workload:
    """*count* messages of which *percent* can never succeed, the others distinct commands."""
    bad = count * percent // 100
    good = count - bad

    def build() -> list[bytes]:
        poison = [
            json.dumps({"Application": APPLICATION, "Poison": number}).encode() for number in range(bad)
        ]
        return _shuffled([*(for_associate(associate) for associate in range(1, good + 1)), *poison])

    return Workload("poison", f"{percent} % poison", _one_scope(good), good, build, poison=bad)


def _one_scope(rows: int, *, xml: str = "'<configuration/>'") -> str:
    return _rows(f"'{APPLICATION}'", f"'{INSTANCE}'", f"generate_series(1, {rows}) AS a", xml=xml)


def _rows(application: str, instance: str, source: str, *, xml: str = "'<configuration/>'") -> str:
    return f"""
INSERT INTO configuration_cache (application, instance, associate_id, item, xml)
SELECT {application}, {instance}, a, 'Contact', {xml} FROM {source}"""


def _shuffled(values: Sequence[_T]) -> list[_T]:
    return random.Random(_SEED).sample(values, len(values))
