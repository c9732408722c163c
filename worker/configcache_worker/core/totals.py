"""
What a worker has done since it was made: plain numbers, counted once for each batch, read when somebody asks.

Nothing here knows who asks, or in what form. Only poison costs anything for each message.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from configcache.wire import Reason

BATCH_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Commands."""

SECONDS_BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0),
)
"""From what an idle worker takes for one command up to what waits for the end of an outage."""


class PauseCause(enum.StrEnum):
    """Why commands are not cleared as they come. The words are those of readiness, and stand in metrics."""

    DATABASE = "database"
    """Nothing goes through: what is held is tried again."""
    DEAD_LETTERS = "dead-letters-unavailable"
    """Too many messages that can't be read wait for their way to the dead letters."""
    BROKER = "broker"
    """Nothing is consumed, or published: there is no session."""


class RetryCause(enum.StrEnum):
    """Why something is tried again. The words stand in metrics."""

    DATABASE = "database"
    """A try failed as in an outage; or the database was asked in vain whether one is over."""
    TOO_SLOW = "too-slow"
    """A statement met its time limit: less is asked for."""
    TAKEN_APART = "taken-apart"
    """A group of commands failed: its parts are tried by themselves."""
    SET_ASIDE = "set-aside"
    """A command that failed alone is tried once more."""
    DEAD_LETTERS = "dead-letters-unavailable"
    """A dead letter was not confirmed."""
    BROKER = "broker"
    """No session: connecting failed, or one has ended."""


class Histogram:
    """
    How often a figure was how large.

    Args:
        bounds: Ascending; each belongs to the bucket below it.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        """Of all figures."""

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self._counts)}, sum {self.sum:g}>"

    def observe(self, figure: float) -> None:
        """Count *figure*."""
        self._counts[bisect_left(self._bounds, figure)] += 1
        self.sum += figure

    def buckets(self) -> Iterator[tuple[float, int]]:
        """For each bound how many figures do not exceed it; at last, with infinity, how many there are."""
        return zip((*self._bounds, float("inf")), accumulate(self._counts), strict=True)


class Pauses:
    """For how long each cause has lasted, all times together. Moments are those of one clock, in seconds."""

    def __init__(self) -> None:
        self._begun: dict[PauseCause, float] = {}
        self._seconds = dict.fromkeys(PauseCause, 0.0)

    def __repr__(self) -> str:
        return f"<Pauses {', '.join(self._begun) or 'none'}>"

    def __contains__(self, cause: PauseCause) -> bool:
        return cause in self._begun

    def note(self, cause: PauseCause, is_paused: bool, moment: float) -> None:
        """From *moment* on, *cause* applies or not. Safe to repeat."""
        if is_paused:
            self._begun.setdefault(cause, moment)
        elif (begun := self._begun.pop(cause, None)) is not None:
            self._seconds[cause] += moment - begun

    def seconds(self, cause: PauseCause, moment: float) -> float:
        """How long *cause* has applied until *moment*."""
        return self._seconds[cause] + moment - self._begun.get(cause, moment)


@dataclass(slots=True)
class Totals:
    """What a worker has done since it was made."""

    received: int = 0
    """Deliveries."""
    cleared: int = 0
    """Commands whose rows are gone, committed."""
    coalesced: int = 0
    """Of these, commands that an equal or a wider one has done as well."""
    rows: int = 0
    batches: int = 0
    """Passes that committed."""
    batch_commands: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    batch_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_BOUNDS))
    """What the pass took, all its chunks."""
    lag_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_BOUNDS))
    """From publish to commit, of each batch's oldest delivery."""
    buried: Counter[Reason] = field(default_factory=Counter)
    """Deliveries copied to the dead letters with their reason."""
    rejected: Counter[Reason] = field(default_factory=Counter)
    """Deliveries left to the broker's own dead-lettering."""
    convicted: Counter[Reason] = field(default_factory=Counter)
    """Commands, whatever the number of their deliveries."""
    retries: Counter[RetryCause] = field(default_factory=Counter)
    sessions: Counter[str] = field(default_factory=Counter)
    """Sessions begun, by what made a new one necessary."""
    pauses: Pauses = field(default_factory=Pauses)

    def committed(self, *, commands: int, scopes: int, rows: int, duration_s: float) -> None:
        """Count a pass: *commands* by so many *scopes*, which deleted *rows* rows."""
        self.cleared += commands
        self.coalesced += commands - scopes
        self.rows += rows
        self.batches += 1
        self.batch_commands.observe(commands)
        self.batch_seconds.observe(duration_s)

    @property
    def dead_lettered(self) -> int:
        """Deliveries that are in the dead-letter queue, one way or the other, or on the broker's way there."""
        return self.buried.total() + self.rejected.total()
