"""
Count what is in the database, for tools: rows of the cache, leases, what the outbox holds.

Every look is bounded: a large table is estimated rather than counted, and no statement takes longer than its limit.
Changes nothing.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from configcache_worker.core.ports import TableFault
from configcache_worker.postgres import statements
from configcache_worker.postgres.backlog import Backlog, backlog_statement
from configcache_worker.postgres.connection import PlainConnection, connect
from configcache_worker.postgres.faults import ConnectionFailed, table_fault

if TYPE_CHECKING:
    from asyncpg import Record

    from configcache_worker.postgres.connection import TimeLimits
    from configcache_worker.postgres.statements import TableLayout

MOST_COUNTED: Final = 100_000
"""Above it the planner's estimate is told. So many are read within some tens of milliseconds."""

_CLOSE_TIMEOUT_S: Final = 1.0

_SERVER: Final = """\
SELECT current_setting('server_version') AS version, current_database()::text AS database, current_user::text AS role,
    pg_is_in_recovery() AS is_standby, current_setting('transaction_read_only') = 'on' AS is_read_only"""

# Of a partitioned table, the rows are in its partitions.
_ESTIMATE: Final = """\
SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint AS rows FROM pg_catalog.pg_class AS c
WHERE c.relkind = 'r'
    AND (c.oid = to_regclass($1) OR c.oid IN (SELECT p.relid FROM pg_partition_tree(to_regclass($1)) AS p))"""


class Server(NamedTuple):
    """What the server and the session say they are."""

    version: str
    """As a human reads it: ``15.6 (Debian 15.6-0)``."""
    database: str
    role: str
    is_standby: bool
    is_read_only: bool
    """Whether a transaction that sets nothing could not write; a standby's never can."""


class Leases(NamedTuple):
    """Rows that have no content yet."""

    building: int
    expired: int


class Overview:
    """
    One connection for counting. An async context manager, whose beginning raises TableFault like all it can do.

    Args:
        url: ``postgresql://...``, as the worker has it.
        layout: The table and its key columns.
        limits: Time limits for connecting and for each statement.
        cache_statements: As the worker's.
    """

    def __init__(
        self, url: str, *, layout: TableLayout, limits: TimeLimits, cache_statements: bool = True
    ) -> None:
        self._url = url
        self._layout = layout
        self._limits = limits
        self._cache_statements = cache_statements
        self._connection: PlainConnection | None = None

    async def __aenter__(self) -> Self:
        try:
            self._connection = await connect(
                self._url,
                timeout_s=self._limits.connect_timeout_s,
                server_settings={"application_name": "configcache status", **self._limits.server_settings()},
                cache_statements=self._cache_statements,
            )
        except ConnectionFailed as error:
            raise TableFault(str(error)) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._open()
        if error is not None:
            connection.terminate()  # a statement may still be running on it
            return
        try:
            await connection.close(timeout=_CLOSE_TIMEOUT_S)
        except Exception:  # whatever it is: nothing more is wanted of it
            connection.terminate()

    async def server(self) -> Server:
        """What answers, and as whom."""
        (row,) = await self._fetch(_SERVER)
        return Server(*row)

    async def probe(self) -> None:
        """
        Commit a DELETE of no rows.

        Raises:
            TableFault: It failed, as a clear would.
        """
        await self._fetch(statements.probe(self._layout))

    async def rows(self) -> tuple[int, bool]:
        """How many rows the table has, and whether that is exact; else it is the planner's estimate."""
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {self._layout.name} LIMIT {MOST_COUNTED + 1}) AS few"
        ((count,),) = await self._fetch(sql)
        if count <= MOST_COUNTED:
            return count, True
        ((estimate,),) = await self._fetch(_ESTIMATE, self._layout.name)
        return max(estimate, count), False

    async def leases(self) -> Leases:
        """How many rows of our own table have no content yet. Reads all of it: there is no index for that."""
        ((building, expired),) = await self._fetch(
            "SELECT count(*) FILTER (WHERE leased_until > clock_timestamp()),"
            " count(*) FILTER (WHERE (leased_until > clock_timestamp()) IS NOT TRUE)"
            f" FROM {self._layout.name} WHERE xml IS NULL"
        )
        return Leases(building, expired)

    async def backlog(self, schema: str) -> Backlog:
        """What waits in the outbox of *schema*."""
        (row,) = await self._fetch(backlog_statement(schema))
        return Backlog(*row)

    async def _fetch(self, statement: str, *arguments: object) -> list[Record]:
        connection = self._open()
        try:
            return await connection.fetch(statement, *arguments)
        except Exception as error:
            raise table_fault(error, is_connection_lost=connection.is_closed()) from error

    def _open(self) -> PlainConnection:
        if self._connection is None:
            raise RuntimeError("use the overview within `async with`")
        return self._connection
