"""
One connection to PostgreSQL: opened when it is needed, and thrown away at the first doubt.

Not a pool. The worker clears one batch at a time, and the gateway looks up few callers, so one connection is all they can
use, and a pool would hand out again what should be gone: a connection whose statement was abandoned, or one to a server that has been demoted and still
answers ``SELECT 1``. Here the next statement simply connects anew, and finds the new primary if the URL names several
hosts. Nothing is retried: the core decides what a failure means.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from configcache_worker.core.ports import TableFault
from configcache_worker.postgres.faults import ConnectionFailed, describe, sqlstate_of, table_fault
from configcache_worker.settings.urls import check_database_url

if TYPE_CHECKING:
    from configcache_worker.settings import DatabaseSettings

# Quoted: asyncpg's classes are generic in its type stubs only.
PlainConnection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_GRACE_S = 2.0  # how much longer than the server's own limit we wait for its answer
_CLOSE_TIMEOUT_S = 2.0

# A failure of one statement that says nothing against the session: wrong data, a constraint, a trigger (P0), a deadlock, a
# missing table or right, want of resources, and our own time limits. All others may mean that another session, or another
# server, would do better.
_SESSION_STAYS_GOOD = frozenset({"22", "23", "40", "42", "53", "54", "55", "P0"})
_CANCELED = "57014"

# What a clear needs of its session, beside the time limits.
_CLEAR_SETTINGS = {
    # Under repeatable read, a row updated meanwhile would fail the statement instead of being deleted.
    "default_transaction_isolation": "read committed",
    # Compiling takes longer than any chunk.
    "jit": "off",
    # Only index scans in key order are linear in the rows deleted. The planner may see that differently as long as its
    # figures are those of an empty table, so every other way is made dear ...
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    # ... and planned once: with all this there is one way left to clear a chunk of our own table, and finding it takes
    # longer than clearing a single command. A statement for which this is not so asks for a fresh plan.
    "plan_cache_mode": "force_generic_plan",
    # The server notices in a minute that a worker's machine is gone, and lets go of its locks.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long anything may take. All but the first are kept by the server."""

    connect_timeout_s: float = 10.0
    """For each host the URL names."""
    lock_timeout_s: float = 5.0
    statement_timeout_s: float = 30.0
    idle_in_transaction_timeout_s: float = 60.0

    @classmethod
    def of(cls, database: DatabaseSettings) -> Self:
        """Those of the settings."""
        return cls(
            connect_timeout_s=database.connect_timeout_s,
            lock_timeout_s=database.lock_timeout_s,
            statement_timeout_s=database.statement_timeout_s,
            idle_in_transaction_timeout_s=database.idle_in_transaction_timeout_s,
        )

    def server_settings(self) -> dict[str, str]:
        """The limits as settings of a session."""
        return {
            "lock_timeout": _milliseconds(self.lock_timeout_s),
            "statement_timeout": _milliseconds(self.statement_timeout_s),
            "idle_in_transaction_session_timeout": _milliseconds(self.idle_in_transaction_timeout_s),
        }


class Connection:
    """
    One statement at a time; a second caller waits for its turn.

    Every failure leaves as :class:`~configcache_worker.core.ports.TableFault` with its cause chained.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: TimeLimits,
        application_name: str,
        settings: Mapping[str, str],
        cache_statements: bool = True,
    ) -> None:
        """
        Connects to nothing yet.

        Args:
            url: ``postgresql://...``; may name several hosts, separated by commas.
            limits: Time limits for connecting and for each statement.
            application_name: As ``pg_stat_activity`` shows it.
            settings: Of the session, beside these.
            cache_statements: Keep statements prepared. False behind PgBouncer in transaction mode, which must also be
                told to let the session's settings pass (``ignore_startup_parameters``).
        """
        self._url = url
        self._limits = limits
        self._settings = {"application_name": application_name, **limits.server_settings(), **settings}
        self._cache_statements = cache_statements
        self._connection: PlainConnection | None = None
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "open"
        return f"<{type(self).__name__} to {host_of(self._url)}, {state}>"

    async def fetch(
        self, statement: str, *arguments: object, fresh_plan: bool = False
    ) -> list[asyncpg.Record]:
        """
        Run one statement in a transaction of its own; when this returns, it is committed.

        Args:
            statement: SQL, with parameters ``$1``, ``$2``.
            arguments: Their values.
            fresh_plan: Plan it for the size that its tables have now, instead of keeping the plan from its first time.
                One round trip more.

        Raises:
            TableFault: It did not commit, or nobody knows whether it did.
        """
        async with self._turn:
            connection = await self._opened()
            try:
                return await self._run(connection, statement, arguments, fresh_plan=fresh_plan)
            except TableFault:
                self._abandon()  # our own time limit: the statement may still be running on this connection
                raise
            except Exception as error:
                fault = table_fault(error, is_connection_lost=connection.is_closed())
                if not _stays_good(fault.sqlstate):
                    self._abandon()
                raise fault from error
            except BaseException:
                self._abandon()  # cancelled: as above
                raise

    async def close(self) -> None:
        """Close the connection once a running statement is done. Safe to repeat; the next statement opens another."""
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await connection.close(timeout=_CLOSE_TIMEOUT_S)

    async def _opened(self) -> PlainConnection:
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await connect(
                    self._url,
                    timeout_s=self._limits.connect_timeout_s,
                    server_settings=self._settings,
                    cache_statements=self._cache_statements,
                )
            except ConnectionFailed as error:
                # Without its SQLSTATE: whatever it says, it says nothing about the statement.
                raise TableFault(str(error)) from error
        return self._connection

    async def _run(
        self,
        connection: PlainConnection,
        statement: str,
        arguments: tuple[object, ...],
        *,
        fresh_plan: bool,
    ) -> list[asyncpg.Record]:
        # The server's statement_timeout comes first and leaves the session usable. Ours is for a server, or a network,
        # that doesn't answer at all.
        patience_s = self._limits.statement_timeout_s + _GRACE_S
        deadline = asyncio.timeout(patience_s)
        try:
            async with deadline:
                if fresh_plan:
                    return await (await connection.prepare(statement)).fetch(*arguments)
                return await connection.fetch(statement, *arguments)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TableFault(f"no answer from the database in {patience_s:g} s", timed_out=True) from error

    def _abandon(self) -> None:
        # Never close() here: it would wait for the statement that isn't coming back.
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


class ClearConnection(Connection):
    """The connection that clears. Arguments as for :class:`Connection`; connects to nothing yet."""

    def __init__(
        self,
        url: str,
        *,
        limits: TimeLimits,
        application_name: str = "configcache worker",
        cache_statements: bool = True,
    ) -> None:
        super().__init__(
            url,
            limits=limits,
            application_name=application_name,
            settings=_CLEAR_SETTINGS,
            cache_statements=cache_statements,
        )


async def connect(
    url: str, *, timeout_s: float, server_settings: dict[str, str], cache_statements: bool = True
) -> PlainConnection:
    """
    Open a connection to the first host of *url* that serves.

    Args:
        url: ``postgresql://...``; several hosts are separated by commas.
        timeout_s: For each host, as libpq has it: asyncpg's own limit is for all of them together, and a first host
            that has vanished would use it up.
        server_settings: Set for the session.
        cache_statements: Keep statements prepared.

    Raises:
        ConnectionFailed: None of them does. The text says why, for each.
    """
    failures: list[ConnectionFailed] = []
    for host_url in _split_hosts(url):
        try:
            return await _connect_to_one(
                host_url,
                timeout_s=timeout_s,
                server_settings=server_settings,
                statement_cache_size=100 if cache_statements else 0,
            )
        except ConnectionFailed as failure:
            failures.append(failure)
    raise ConnectionFailed("; ".join(map(str, failures)), sqlstate=failures[-1].sqlstate) from failures[
        -1
    ].__cause__


async def _connect_to_one(
    url: str, *, timeout_s: float, server_settings: dict[str, str], statement_cache_size: int
) -> PlainConnection:
    server = f"no connection to PostgreSQL at {host_of(url)}"
    try:
        return await asyncpg.connect(
            url, timeout=timeout_s, server_settings=server_settings, statement_cache_size=statement_cache_size
        )
    except ValueError as error:
        # Not even as a cause: what asyncpg quotes of the URL may be a piece of the password.
        raise ConnectionFailed(_unusable(url, error)) from None
    except TimeoutError as error:
        raise ConnectionFailed(f"{server} within {timeout_s:g} s") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise ConnectionFailed(f"{server}: {describe(error)}", sqlstate=sqlstate_of(error)) from error


def _unusable(url: str, error: ValueError) -> str:
    """Why asyncpg can't connect by *url*."""
    try:
        check_database_url(url)
    except ValueError as fault:
        return f"the database URL {fault}"
    if isinstance(
        error, asyncpg.InterfaceError
    ):  # in words for a user, such as that a certificate is not there
        return f"the database URL can't be used: {describe(error)}"
    return "the database URL, or a PG* variable of the environment, can't be understood"


def _split_hosts(url: str) -> list[str]:
    """One URL for each host that *url* names, otherwise alike."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]  # asyncpg will say what is wrong with it
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return [url]
    return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]


def host_of(url: str) -> str:
    """The host and port part of *url*, without user and password."""
    try:
        check_database_url(url)
    except ValueError:
        return "an unreadable address"
    return urlsplit(url).netloc.rpartition("@")[2] or "the default address"


def _stays_good(sqlstate: str | None) -> bool:
    """Whether a session can go on after its statement failed with *sqlstate*."""
    return sqlstate is not None and (sqlstate == _CANCELED or sqlstate[:2] in _SESSION_STAYS_GOOD)


def _milliseconds(seconds: float) -> str:
    # Rounded up, since 0 would mean no limit.
    return str(math.ceil(seconds * 1000))
