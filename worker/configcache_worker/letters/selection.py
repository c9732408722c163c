"""Which dead letters an operator means, and how they are put into groups. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from configcache_worker.letters.letter import DeadLetter


@dataclass(frozen=True, slots=True)
class Selection:
    """Letters by their ids, reason and producer: whatever is given must fit. Nothing given: all."""

    ids: frozenset[str] = frozenset()
    """Any of these; empty: any."""
    reason: str | None = None
    producer: str | None = None

    def includes(self, letter: DeadLetter) -> bool:
        """Whether *letter* is meant."""
        return (
            (not self.ids or letter.id in self.ids)
            and self.reason in {None, letter.reason}
            and self.producer in {None, letter.producer}
        )


EVERYTHING = Selection()


class Summary(NamedTuple):
    """What is kept of a letter that was only looked at: a few hundred bytes, whatever the letter has."""

    id: str
    reason: str
    producer: str
    dead_lettered_at_ms: int | None
    published_at_ms: int | None
    replayed: int
    body_bytes: int


def summarize(letter: DeadLetter) -> Summary:
    """Keep of *letter* what a list needs."""
    return Summary(
        id=letter.id,
        reason=letter.reason,
        producer=letter.producer,
        dead_lettered_at_ms=letter.dead_lettered_at_ms,
        published_at_ms=letter.published_at_ms,
        replayed=letter.replayed,
        body_bytes=letter.body_bytes,
    )


class Group(NamedTuple):
    """Letters with the same reason and producer."""

    reason: str
    producer: str
    letters: int
    """How many there are."""
    first_ms: int | None
    """When the first of them was dead-lettered, Unix milliseconds; None where none says it."""
    last_ms: int | None
    """The same of the last."""
    example: str
    """The id of one of them."""


def group(summaries: Iterable[Summary]) -> list[Group]:
    """Put letters with the same reason and producer together; the largest group first."""
    members: dict[tuple[str, str], list[Summary]] = defaultdict(list)
    for summary in summaries:
        members[summary.reason, summary.producer].append(summary)
    groups = [_group(*key, found) for key, found in members.items()]
    return sorted(groups, key=lambda group: (-group.letters, group.reason, group.producer))


def _group(reason: str, producer: str, found: list[Summary]) -> Group:
    times = [summary.dead_lettered_at_ms for summary in found if summary.dead_lettered_at_ms is not None]
    return Group(
        reason=reason,
        producer=producer,
        letters=len(found),
        first_ms=min(times, default=None),
        last_ms=max(times, default=None),
        example=found[0].id,
    )
