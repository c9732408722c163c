"""
How much waits in the outbox, and for how long: for whoever watches, in bounded time.

Each look has a connection of its own, so that it neither waits for the relay, which may be in the middle of a publish, nor
holds it up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from configcache_worker.postgres.connection import connect
from configcache_worker.postgres.faults import ConnectionFailed
from configcache_worker.postgres.outbox import outbox_table

if TYPE_CHECKING:
    from configcache_worker.postgres.connection import PlainConnection

MOST_COUNTED: Final = 100_000
"""No more rows are counted: that they are too many is known by then, and counting all of them costs the database."""

_PATIENCE_S: Final = 2.0
_FRESH_S: Final = 1.0
_SETTINGS: Final = {
    "application_name": "configcache relay backlog",
    "statement_timeout": "1500",
    "jit": "off",
}


class Backlog(NamedTuple):
    """What waits in the outbox, committed."""

    rows: int
    """Up to :data:`MOST_COUNTED`."""
    oldest_s: float
    """How long the oldest row has waited, 0 if there is none."""


def backlog_statement(schema: str) -> str:
    """What a :class:`Backlog` is made of, as one row."""
    table = outbox_table(schema)
    return (
        f"SELECT (SELECT count(*) FROM (SELECT FROM {table} LIMIT {MOST_COUNTED}) AS counted) AS rows,"
        " coalesce((SELECT extract(epoch FROM clock_timestamp() - enqueued_at)"
        f" FROM {table} ORDER BY id LIMIT 1), 0)::float8 AS oldest_s"
    )


class OutboxBacklog:
    """
    Looks at the outbox when asked.

    Args:
        url: ``postgresql://...``; may name several hosts, separated by commas.
        schema: Where the table is.
    """

    def __init__(self, url: str, *, schema: str) -> None:
        self._url = url
        self._statement = backlog_statement(schema)
        self._turn = asyncio.Lock()
        self._looked_at: float | None = None
        self._found: Backlog | None = None

    async def look(self) -> Backlog | None:
        """
        What waits now, or did a second ago; None if the database does not say so in two seconds. Never raises for it.

        Several who ask at once share one look.
        """
        async with self._turn:
            clock = asyncio.get_running_loop().time
            if self._looked_at is None or clock() - self._looked_at >= _FRESH_S:
                self._found = await self._ask()
                self._looked_at = clock()
            return self._found

    async def _ask(self) -> Backlog | None:
        connection: PlainConnection | None = None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                connection = await connect(self._url, timeout_s=_PATIENCE_S, server_settings=_SETTINGS)
                (record,) = await connection.fetch(self._statement)
                await connection.close()
                return Backlog(*record)
        except (
            ConnectionFailed,
            OSError,
            TimeoutError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ):
            return None
        finally:
            if connection is not None:
                connection.terminate()  # of no effect if it was closed
