"""What a committed batch is worth telling: one piece of news for each application and instance in it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from configcache_worker.core.coalesce import Work, tags
from configcache_worker.core.ports import News


def news_of(group: Sequence[Work], *, rows: int) -> list[News]:
    """
    Tell what *group* has cleared.

    Args:
        group: Committed together.
        rows: How many rows that deleted, all in all. A statement does not say which; so it is known of a single
            application and instance only.
    """
    works: dict[tuple[str, str], list[Work]] = {}
    for work in group:
        works.setdefault(work.scope[:2], []).append(work)
    return [
        News(
            application,
            instance,
            associates=_associates(some),
            rows=rows if len(works) == 1 else None,
            commands=len(tags(some)),
        )
        for (application, instance), some in works.items()
    ]


def _associates(works: Sequence[Work]) -> frozenset[int] | None:
    ids = [work.scope.associate_id for work in works]
    named = frozenset(associate_id for associate_id in ids if associate_id is not None)
    return named if len(named) == len(ids) else None
