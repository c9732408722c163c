"""
The cached rows in PostgreSQL: the core's port :class:`~configcache_worker.core.ports.CacheTable`.

Thin: the statements come from :mod:`.statements`, the connection and the words for its failures from
:mod:`.connection` and :mod:`.faults`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from configcache_worker.core.ports import Chunk, Position, Scope
from configcache_worker.postgres import catalog, statements
from configcache_worker.postgres.connection import ClearConnection, TimeLimits
from configcache_worker.postgres.statements import TableLayout

if TYPE_CHECKING:
    from asyncpg import Record


class PostgresCacheTable:
    """Clears rows of one table, over one connection that is opened when first needed."""

    def __init__(
        self,
        url: str,
        *,
        layout: TableLayout,
        limits: TimeLimits,
        cache_statements: bool = True,
    ) -> None:
        """
        Connects to nothing yet.

        Args:
            url: ``postgresql://...``; may name several hosts, with ``target_session_attrs=read-write`` to find the
                primary among them.
            layout: The table and its key columns.
            limits: Time limits for connecting and for each statement.
            cache_statements: Keep statements prepared; false behind PgBouncer in transaction mode.
        """
        self._connection = ClearConnection(url, limits=limits, cache_statements=cache_statements)
        self._layout = layout
        self._clear_chunk = statements.clear_chunk(layout, by_key=False)
        self._clear_chunk_by_key = statements.clear_chunk(layout, by_key=True)
        self._probe = statements.probe(layout)
        self._is_keyed = False
        """Whether the catalog has said that the only index is a unique one of the key, as in our own table."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._layout.name} over {self._connection!r}>"

    async def clear(self, scopes: Sequence[Scope], *, after: Position | None, limit: int) -> Chunk:
        """Delete the next chunk of *scopes*; see the port."""
        arguments = statements.clear_chunk_arguments(self._layout, scopes, after=after, limit=limit)
        if not self._is_keyed or self._layout.item is None:
            # A chunk ends with all rows of its last key, and here there may be several: only the key can tell.
            row = await self._by_key(arguments)
            rows = row["rows"]
        else:
            (row,) = await self._connection.fetch(self._clear_chunk, *arguments)
            rows = row["rows"]
            # Some were updated meanwhile, or a trigger of the table's owner has kept them.
            if rows < row["locked"]:
                row = await self._by_key(arguments)
                rows += row["rows"]
        if row["n"] is None:
            return Chunk(rows, None)
        first = 0 if after is None else after.scope
        return Chunk(rows, Position(first + row["n"] - 1, row["associate"], row["item"]))

    async def _by_key(self, arguments: Sequence[object]) -> Record:
        # A plan of this one that was made while the table was empty would read the whole index for each row.
        (row,) = await self._connection.fetch(self._clear_chunk_by_key, *arguments, fresh_plan=True)
        return row

    async def probe(self) -> None:
        """Commit a DELETE of no rows; see the port."""
        await self._connection.fetch(self._probe)

    async def check_layout(self) -> None:
        """
        Compare the layout with the database's catalog.

        Until then, chunks are cleared in the way that serves any table.

        Raises:
            TableNotReady: The table, or a right on it, is missing: it may come.
            LayoutError: The table can't serve as it is.
            TableFault: The database could not be asked.
        """
        self._is_keyed = await catalog.check_layout(self._connection, self._layout)

    async def close(self) -> None:
        """Close the connection. Safe to repeat."""
        await self._connection.close()
