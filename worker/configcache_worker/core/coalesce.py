"""
Merge commands of equal effect, so that a batch becomes few scopes and every delivery still gets its answer.

Equal commands become one piece of work, and clearing for all associates absorbs the single-associate clears of the
same application and instance. Pure: nothing here knows how a scope is cleared or a delivery settled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

from configcache_worker.core.ports import Delivery, Scope

Order: TypeAlias = tuple[Delivery, Scope]
"""A delivery, and the command in it. A bare tuple, since there is one for each message."""


class Work(NamedTuple):
    """One scope to clear, and who waits for it."""

    scope: Scope
    deliveries: list[Delivery]
    """Those of exactly this command."""
    absorbed: Sequence[Work] = ()
    """Narrower commands that this one does as well. They absorb nothing themselves."""


def coalesce(orders: Iterable[Order]) -> list[Work]:
    """
    Turn *orders* into the least work that has their effect.

    Returns:
        Works sorted by scope, no two of which overlap: the order in which every worker locks rows. Each delivery of
        *orders* is in exactly one of them.
    """
    for_all: dict[tuple[str, str], Work] = {}
    single: defaultdict[tuple[str, str], dict[int, Work]] = defaultdict(dict)
    for delivery, scope in orders:
        name, associate_id = scope[:2], scope.associate_id
        work = for_all.get(name) if associate_id is None else single[name].get(associate_id)
        if work is not None:
            work.deliveries.append(delivery)
        elif associate_id is None:
            for_all[name] = Work(scope, [delivery])
        else:
            single[name][associate_id] = Work(scope, [delivery])
    works: list[Work] = []
    for name in sorted({*for_all, *single}):
        narrower = [single[name][associate_id] for associate_id in sorted(single[name])]
        wider = for_all.get(name)
        works += narrower if wider is None else [wider._replace(absorbed=narrower)]
    return works


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
        return [[Work(work.scope, work.deliveries)], list(work.absorbed)]
    return []


def singles(works: Iterable[Work]) -> Iterator[Work]:
    """Take *works* wholly apart: what each has absorbed stands for itself."""
    for work in works:
        yield Work(work.scope, work.deliveries)
        yield from work.absorbed


def earliest(works: Iterable[Work]) -> Delivery:
    """The delivery of *works* that came first. Looks at all of them: for groups that were taken apart."""
    heads = [work.deliveries[0] for work in singles(works)]
    return min(heads, key=lambda delivery: delivery.tag)


def deliveries(works: Iterable[Work]) -> Iterator[Delivery]:
    """Every delivery that waits for *works*."""
    return chain.from_iterable(work.deliveries for work in singles(works))


def tags(works: Iterable[Work]) -> list[int]:
    """The tag of every delivery that is done once *works* are cleared."""
    found: list[int] = []
    for _, deliveries, absorbed in works:
        found += [delivery.tag for delivery in deliveries]
        if absorbed:
            found += tags(absorbed)
    return found
