"""
What a sight means: is this part well, does it need somebody, in which words. Pure.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from configcache.topology import DEAD_LETTER_QUEUE
from configcache_worker.status.sights import (
    Broker,
    Cache,
    Commands,
    Database,
    Letters,
    Outbox,
    System,
    Unseen,
)

_Sight = TypeVar("_Sight", Broker, Commands, Letters, Database, Cache, Outbox)

PARTS: Final = ("broker", "commands", "dead-letters", "database", "cache", "outbox")
"""In the order in which they are shown."""


class Verdict(enum.StrEnum):
    """How a part is. In the order of how bad it is."""

    OK = "ok"
    UNKNOWN = "unknown"
    """Could not be found out; the text says why."""
    ATTENTION = "attention"
    """Commands are cleared, but somebody should look."""
    BROKEN = "broken"
    """Commands are not cleared, or would not be."""

    @property
    def needs_somebody(self) -> bool:
        """Whether an operator has something to do."""
        return self in (Verdict.ATTENTION, Verdict.BROKEN)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a number is a reason to look."""

    waiting: int = 10_000
    """Commands that wait in the queue."""
    backlog_s: float = 60.0
    """Age of the oldest row in the outbox."""


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the screen."""

    name: str
    """One of :data:`PARTS`."""
    verdict: Verdict
    text: str
    """What was seen, or why nothing was."""
    reasons: tuple[str, ...]
    """Why the verdict is not ``ok``, a sentence each."""
    facts: Mapping[str, object]
    """The sight's fields; all None where it could not be seen."""


@dataclass(frozen=True, slots=True)
class Report:
    """A system, judged."""

    at: datetime
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> Verdict:
        """That of its worst part."""
        order = list(Verdict)
        return max((part.verdict for part in self.parts), key=order.index)

    @property
    def summary(self) -> str:
        """Which parts need somebody, in one line: ``broken: commands; attention: dead-letters``."""
        parts = {
            verdict: [part.name for part in self.parts if part.verdict is verdict]
            for verdict in reversed(Verdict)
            if verdict.needs_somebody
        }
        return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in parts.items() if names)


def judged(system: System, thresholds: Thresholds) -> Report:
    """Judge what was seen."""
    return Report(
        at=system.at,
        parts=(
            _part("broker", Broker, system.broker, _broker),
            _part("commands", Commands, system.commands, lambda seen: _commands(seen, thresholds)),
            _part("dead-letters", Letters, system.letters, _letters),
            _part("database", Database, system.database, _database),
            _part("cache", Cache, system.cache, _cache),
            _part("outbox", Outbox, system.outbox, lambda seen: _outbox(seen, thresholds)),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Opinion:
    text: str
    verdict: Verdict = Verdict.OK
    reasons: tuple[str, ...] = ()


def _part(
    name: str, kind: type[_Sight], sight: _Sight | Unseen, opinion_of: Callable[[_Sight], _Opinion]
) -> Part:
    if isinstance(sight, Unseen):
        verdict = Verdict.BROKEN if sight.is_fault else Verdict.UNKNOWN
        nothing = dict.fromkeys(field.name for field in dataclasses.fields(kind))
        return Part(name, verdict, sight.why, (sight.why,), nothing)
    opinion = opinion_of(sight)
    return Part(name, opinion.verdict, opinion.text, opinion.reasons, dataclasses.asdict(sight))


def _broker(seen: Broker) -> _Opinion:
    return _Opinion(
        f"{seen.product} {seen.version} at {seen.address}, virtual host {seen.virtual_host}, as {seen.user}"
    )


def _commands(seen: Commands, thresholds: Thresholds) -> _Opinion:
    waiting = counted(seen.waiting, "command waits", "commands wait")
    text = f"{waiting}, {counted(seen.consumers, 'worker consumes', 'workers consume')}"
    if not seen.consumers:
        return _Opinion(text, Verdict.BROKEN, ("no worker consumes: what is published only waits",))
    if seen.waiting > thresholds.waiting:
        reason = f"more than {thresholds.waiting:,} commands wait: workers are paused, or too few"
        return _Opinion(text, Verdict.ATTENTION, (reason,))
    return _Opinion(text)


def _letters(seen: Letters) -> _Opinion:
    if not seen.waiting:
        return _Opinion("none")
    text = counted(seen.waiting, "message waits", "messages wait") + f" in {DEAD_LETTER_QUEUE}"
    reason = (
        "some messages could not be applied: `configcache dead-letters list` says which;"
        " mend, replay or discard them"
    )
    if seen.by_reason is None:
        return _Opinion(text, Verdict.ATTENTION, (reason, f"reasons are not told: {seen.not_told}"))
    if seen.looked_at is not None and seen.looked_at < seen.waiting:
        text += f"; of the first {seen.looked_at:,}"
    by_frequency = sorted(seen.by_reason.items(), key=lambda entry: (-entry[1], entry[0]))
    return _Opinion(
        f"{text}: " + ", ".join(f"{count:,} {word}" for word, count in by_frequency),
        Verdict.ATTENTION,
        (reason,),
    )


def _database(seen: Database) -> _Opinion:
    text = (
        f"PostgreSQL {seen.version} at {seen.address}, database {seen.database}, as {seen.role}: {seen.state}"
    )
    if seen.state == "writable":
        return _Opinion(text)
    reason = f"the server that answers is {seen.state}: commands are held until one can be written"
    return _Opinion(text, Verdict.BROKEN, (reason,))


def _cache(seen: Cache) -> _Opinion:
    text = f"{seen.table}: {_rows(seen)}"
    if seen.building:
        text += f", {counted(seen.building, 'is', 'are')} being built"
    if seen.expired:
        text += f", {counted(seen.expired, 'lease has', 'leases have')} expired"
    if seen.clear_fails is not None:
        reason = f"a clear would fail: {seen.clear_fails}"
        return _Opinion(text, Verdict.BROKEN, (reason, *seen.not_told))
    return _Opinion(text, Verdict.UNKNOWN if seen.not_told else Verdict.OK, seen.not_told)


def _rows(seen: Cache) -> str:
    if seen.rows is None:
        return "rows not counted"
    about = "about " if seen.rows_are == "estimate" else ""
    return about + counted(seen.rows, "row", "rows")


def _outbox(seen: Outbox, thresholds: Thresholds) -> _Opinion:
    if not seen.rows or seen.oldest_s is None:
        return _Opinion("nothing waits for a relay")
    most = "more than " if seen.rows_are == "estimate" else ""
    text = most + counted(seen.rows, "row waits", "rows wait") + f", the oldest for {seen.oldest_s:,.0f} s"
    if seen.oldest_s <= thresholds.backlog_s:
        return _Opinion(text)
    reason = f"the oldest waits for more than {thresholds.backlog_s:g} s: no relay runs, or none can publish"
    return _Opinion(text, Verdict.ATTENTION, (reason,))


def counted(count: int, one: str, many: str) -> str:
    """*count* in words: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {one if count == 1 else many}"
