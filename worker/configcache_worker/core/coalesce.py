"""
Merge commands of equal effect, so that a batch becomes few scopes and every delivery still gets its answer.

Equal commands become one piece of work, and clearing for all associates absorbs the single-associate clears of the
same application and instance. Pure: nothing here knows how a scope is cleared or a delivery settled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from configcache_worker.core.ports import Scope


class Order(NamedTuple):
    """A decoded command and the delivery that waits for it."""

    tag: int
    scope: Scope


@dataclass(frozen=True, slots=True)
class Work:
    """One scope to clear, and who waits for it."""

    scope: Scope
    tags: list[int]
    """Deliveries of exactly this command."""
    absorbed: list[Work] = field(default_factory=list)
    """Narrower commands that this one does as well. They absorb nothing themselves."""

    def all_tags(self) -> Iterator[int]:
        """Every delivery that is done once the scope is cleared."""
        yield from self.tags
        for work in self.absorbed:
            yield from work.tags


def coalesce(orders: Iterable[Order]) -> list[Work]:
    """
    Turn *orders* into the least work that has their effect.

    Returns:
        Works sorted by scope, no two of which overlap: the order in which every worker locks rows. Each tag of
        *orders* is in exactly one of them.
    """
    tags_of: dict[Scope, list[int]] = {}
    for tag, scope in orders:
        tags = tags_of.get(scope)
        if tags is None:
            tags_of[scope] = [tag]
        else:
            tags.append(tag)
    return _sorted(_absorb(tags_of))


def split(works: Sequence[Work]) -> list[list[Work]]:
    """
    Take a failing group apart: halves first, then what one work has absorbed, on the way to the command at fault.

    Returns:
        Two smaller groups that together are *works*, or none if it is a single command.
    """
    if len(works) > 1:
        middle = len(works) // 2
        return [list(works[:middle]), list(works[middle:])]
    (work,) = works
    if work.absorbed:
        return [[Work(work.scope, work.tags)], _sorted(work.absorbed)]
    return []


def singles(works: Iterable[Work]) -> Iterator[Work]:
    """Take *works* wholly apart: what each has absorbed stands for itself."""
    for work in works:
        yield Work(work.scope, work.tags)
        yield from work.absorbed


def _absorb(tags_of: dict[Scope, list[int]]) -> list[Work]:
    for_all = {scope[:2]: Work(scope, tags) for scope, tags in tags_of.items() if scope.associate_id is None}
    if not for_all:
        return [Work(scope, tags) for scope, tags in tags_of.items()]
    works = list(for_all.values())
    for scope, tags in tags_of.items():
        if scope.associate_id is not None:
            wider = for_all.get(scope[:2])
            (works if wider is None else wider.absorbed).append(Work(scope, tags))
    return works


def _sorted(works: Iterable[Work]) -> list[Work]:
    # No two works share application and instance unless both name an associate, so None is never compared.
    return sorted(works, key=lambda work: work.scope)
