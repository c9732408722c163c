"""
Fill the cache table and look at it: for tools and tests. The worker itself only deletes.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import NamedTuple, Self

from configcache_worker.postgres import statements
from configcache_worker.postgres.connection import PlainConnection, connect
from configcache_worker.postgres.statements import TableLayout

_CONNECT_TIMEOUT_S = 10.0


class CacheRow(NamedTuple):
    """The key of a cached row."""

    application: str
    instance: str
    associate_id: int
    item: str = ""
    """Empty where the table has no such column."""


class CacheRows:
    """The rows of one table, over a connection of its own. An async context manager."""

    def __init__(self, url: str, layout: TableLayout) -> None:
        self._url = url
        self._insert = statements.insert_rows(layout)
        self._select = statements.select_keys(layout)
        self._connection: PlainConnection | None = None

    async def __aenter__(self) -> Self:
        self._connection = await connect(self._url, timeout_s=_CONNECT_TIMEOUT_S, server_settings={})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open().close(timeout=_CONNECT_TIMEOUT_S)

    async def fill(self, rows: Iterable[CacheRow], *, xml: str = "<configuration/>") -> None:
        """Insert *rows*, each with the content *xml*. Those that are there already stay as they are."""
        applications, instances, associates, items = zip(*rows, strict=True)
        await self._open().execute(self._insert, applications, instances, associates, items, xml)

    async def all(self) -> set[CacheRow]:
        """The keys of all cached rows."""
        return {CacheRow(*row) for row in await self._open().fetch(self._select)}

    async def execute(self, sql: str) -> None:
        """Run any SQL, several statements too."""
        await self._open().execute(sql)

    def _open(self) -> PlainConnection:
        if self._connection is None:
            raise RuntimeError("use it within `async with`")
        return self._connection
