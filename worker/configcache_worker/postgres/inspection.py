"""
Look at a database as a worker would use it: what it is, whether the table fits, whether a write commits.

Changes nothing. What follows from a failure is left to the caller.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, NamedTuple, Self

from configcache_worker.postgres import catalog, statements
from configcache_worker.postgres.connection import ClearConnection, TimeLimits
from configcache_worker.postgres.statements import TableLayout

# Read in one go; none of it takes a right.
_IDENTITY: Final = """\
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major,
    current_database()::text AS database, current_user::text AS role"""


class Identity(NamedTuple):
    """What the server and the session say they are."""

    version: str
    """As a human reads it: ``15.6 (Debian 15.6-0)``."""
    major: int
    database: str
    role: str


class Inspection:
    """
    One connection for looking. An async context manager; connects when first asked.

    Args:
        url: ``postgresql://...``, as the worker has it.
        layout: The table and its key columns.
        limits: Time limits for connecting and for each statement.
        cache_statements: As the worker's.
    """

    def __init__(
        self, url: str, *, layout: TableLayout, limits: TimeLimits, cache_statements: bool = True
    ) -> None:
        self._connection = ClearConnection(
            url, limits=limits, application_name="configcache doctor", cache_statements=cache_statements
        )
        self._layout = layout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def identity(self) -> Identity:
        """
        What answers, and as whom.

        Raises:
            TableFault: Nothing does.
        """
        (row,) = await self._connection.fetch(_IDENTITY)
        return Identity(*row)

    async def check_layout(self) -> None:
        """
        Compare the layout with the database's catalog.

        Raises:
            TableNotReady: The table, or a right on it, is missing.
            LayoutError: The table can't serve as it is.
            TableFault: The database could not be asked.
        """
        await catalog.check_layout(self._connection, self._layout)

    async def probe(self) -> None:
        """
        Commit a DELETE of no rows.

        Raises:
            TableFault: It failed, as a clear would.
        """
        await self._connection.fetch(statements.probe(self._layout))
