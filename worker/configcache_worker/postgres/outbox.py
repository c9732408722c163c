"""
The outbox in PostgreSQL, as the relay uses it: hear that there is something, and move it out in a transaction.

A session is one connection. It listens, and between notifications it moves rows; at the first doubt it is dropped, like
every connection here. Whom the rows go to, and when to try again, is the relay's.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg

from configcache_worker.postgres.connection import PlainConnection, connect
from configcache_worker.postgres.faults import ConnectionFailed, describe, sqlstate_of
from configcache_worker.postgres.statements import quoted

if TYPE_CHECKING:
    from configcache_worker.postgres.connection import TimeLimits

__all__ = ["OutboxFault", "OutboxRow", "OutboxSession", "PostgresOutbox", "outbox_table"]

_CHANNEL: Final = "configuration_cache_outbox"
_TABLE: Final = "configuration_cache_outbox"
_GRACE_S: Final = 2.0  # how much longer than the server's own limits we wait for its answer
_CLOSE_TIMEOUT_S: Final = 2.0
_UNDEFINED_TABLE: Final = "42P01"

# The server notices in a minute that a relay's machine is gone, and lets others have its rows.
_KEEPALIVES: Final = {
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "jit": "off",
}


class OutboxRow(NamedTuple):
    """A command that somebody has asked for, committed."""

    id: int
    application: str
    instance: str
    for_all_associates: bool
    associate_id: int | None
    age_s: float
    """How long ago it was asked for."""


class OutboxFault(Exception):
    """The outbox could not be read or emptied. What was taken is there again. The text is one line."""


Publish = Callable[[Sequence[OutboxRow]], Awaitable[Collection[int]]]
"""Publishes rows, in bounded time, and gives the ids of those that may be deleted. Must not raise for the others."""


def outbox_table(schema: str) -> str:
    """The table as SQL names it."""
    return f"{quoted(schema)}.{_TABLE}"


class PostgresOutbox:
    """
    Opens sessions.

    Args:
        url: ``postgresql://...``; may name several hosts, separated by commas. Not through PgBouncer in transaction mode,
            which does not deliver notifications.
        schema: Where the table is.
        limits: Time limits for connecting and for each statement.
        hold_s: The longest a publish takes. A relay that hangs for longer inside of a transaction loses it, and its
            rows are others' again.
    """

    def __init__(self, url: str, *, schema: str, limits: TimeLimits, hold_s: float) -> None:
        self._url = url
        self._table = outbox_table(schema)
        self._limits = limits
        self._settings = {
            "application_name": "configcache relay",
            "default_transaction_isolation": "read committed",
            **limits.server_settings(),
            "idle_in_transaction_session_timeout": str(math.ceil((hold_s + _GRACE_S) * 1000)),
            **_KEEPALIVES,
        }

    async def open(self) -> OutboxSession:
        """
        Connect, see that the outbox can be emptied, and listen.

        Raises:
            OutboxFault: No connection, no table, or a right is missing.
        """
        try:
            connection = await connect(
                self._url, timeout_s=self._limits.connect_timeout_s, server_settings=self._settings
            )
        except ConnectionFailed as error:
            raise OutboxFault(str(error)) from error
        session = OutboxSession(
            connection, table=self._table, patience_s=self._limits.statement_timeout_s + _GRACE_S
        )
        try:
            await session.begin()
        except BaseException:
            await session.close()
            raise
        return session


class OutboxSession:
    """One connection that listens and moves rows; made by :class:`PostgresOutbox`. One caller at a time."""

    def __init__(self, connection: PlainConnection, *, table: str, patience_s: float) -> None:
        self._connection = connection
        self._table = table
        self._patience_s = patience_s
        self._news = asyncio.Event()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        connection.add_termination_listener(self._note_termination)

    async def begin(self) -> None:
        """Find out whether a move would work, and listen from now on."""
        with self._faults():
            # Fails where a move would: not migrated, no right, read-only.
            await self._execute(f"DELETE FROM {self._table} WHERE false")
            await self._execute(f"SELECT id FROM {self._table} LIMIT 0 FOR UPDATE")
            await self._connection.add_listener(_CHANNEL, self._note_news)

    async def wait_news(self) -> None:
        """Wait until something has been enqueued since the last :meth:`move` began, or the session has ended."""
        await self._news.wait()

    async def move(self, limit: int, publish: Publish) -> int:
        """
        Take up to *limit* rows that no other relay has taken, publish them, and delete those that were published.

        One transaction: until it ends, the rows are ours; if it fails, at whatever point, they are there again and are
        published once more.

        Returns:
            How many rows were taken.

        Raises:
            OutboxFault: The transaction failed, or the connection is lost.
        """
        # Before the look, not after it: what is enqueued meanwhile must not wait for the next notification.
        self._news.clear()
        with self._faults():
            # Not asyncpg's transaction(): after a failure it would wait for a ROLLBACK, and here the connection goes.
            await self._execute("BEGIN")
            rows = await self._take(limit)
            published = await publish(rows) if rows else ()
            if published:
                await self._execute(f"DELETE FROM {self._table} WHERE id = ANY($1)", list(published))
            await self._execute("COMMIT")
        return len(rows)

    async def wait_ended(self) -> str:
        """Wait for the end of the session, and return why it came."""
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        """Close the connection, in bounded time."""
        self._connection.remove_termination_listener(self._note_termination)
        self._end("closed")
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._connection.close(timeout=_CLOSE_TIMEOUT_S)

    async def _take(self, limit: int) -> list[OutboxRow]:
        records = await self._connection.fetch(
            "SELECT id, application, instance, for_all_associates, associate_id,"
            " extract(epoch FROM clock_timestamp() - enqueued_at)::float8 AS age_s"
            f" FROM {self._table} ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED",
            limit,
            timeout=self._patience_s,
        )
        return [OutboxRow(*record) for record in records]

    async def _execute(self, statement: str, *arguments: object) -> None:
        await self._connection.execute(statement, *arguments, timeout=self._patience_s)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            self._drop()
            raise OutboxFault(f"no answer from the database in {self._patience_s:g} s") from error
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            self._drop()
            raise OutboxFault(_in_words(error)) from error
        except BaseException:
            self._drop()  # cancelled in the middle: nobody knows in what state it is
            raise

    def _drop(self) -> None:
        # Never close() here: it would wait for a statement that may not come back.
        self._end("dropped after a failure")
        self._connection.terminate()

    def _end(self, reason: str) -> None:
        self._news.set()
        if not self._ended.done():
            self._ended.set_result(reason)

    def _note_news(self, *_: object) -> None:
        self._news.set()

    def _note_termination(self, _: object) -> None:
        self._end("the connection to the database was lost")


def _in_words(error: BaseException) -> str:
    mend = "; run `configcache migrate`" if sqlstate_of(error) == _UNDEFINED_TABLE else ""
    return f"{describe(error)}{mend}"
