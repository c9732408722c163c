"""
Read through the cache: take what is cached, or build it, one builder for each key.

:class:`ConfigurationCache` speaks the protocol of ``docs/cache.md``, which the SQL functions ``configuration_cache_begin``,
``configuration_cache_store`` and ``configuration_cache_release`` hold: nothing that was built from a configuration older
than a clear is ever served after that clear. How to build is the caller's business, and so is the driver: a connection
pool is passed in. No driver is imported.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from configcache.command import ClearConfigurationCache
from configcache.retry import RetryPolicy
from configcache.switch import CacheSwitch

__all__ = [
    "Build",
    "ConfigurationCache",
    "Database",
    "PsycopgDatabase",
    "PsycopgPool",
    "StillBuilding",
]

_log = logging.getLogger(__name__)

_LONGEST_ITEM: Final = 128
# A class of SQLSTATE that the server is not needed for: asyncpg says so itself, of a connection that is gone.
_CONNECTION_LOST: Final = "08"
_SERIALIZATION_FAILURE: Final = "40001"
_RELEASE_TIMEOUT_S: Final = 2.0
_POLL: Final = RetryPolicy(first_s=0.02, longest_s=0.5)

Build: TypeAlias = Callable[[], Awaitable[str]]
"""
Reads the configuration and builds the XML. It is called once the lease is committed, and must read the configuration only
then: it is a function, not something already running.
"""


Row: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""A row as the driver gives it: values in the order of the columns, or by their names."""


class Database(Protocol):
    """
    What is needed of a driver: run one statement in a transaction of its own, and give its first row.

    ``asyncpg.Pool`` is one. Around psycopg's pool, :class:`PsycopgDatabase` is.
    """

    async def fetchrow(self, statement: str, /, *arguments: object) -> Row | None:
        """Run *statement*, whose parameters are written ``$1``, ``$2``; when this returns, it is committed."""
        ...


class StillBuilding(TimeoutError):
    """Somebody else is building this XML, and was not done within the time to wait."""


class _Begun(NamedTuple):
    """What ``configuration_cache_begin`` answered."""

    xml: str | None
    """What is cached."""
    is_ours: bool
    """Whether we are to build. Neither: somebody else does."""


class _Key(NamedTuple):
    """The key of a cached row."""

    application: str
    instance: str
    associate_id: int
    item: str


class ConfigurationCache:
    """
    The cached configuration, read through::

        cache = ConfigurationCache(pool)  # asyncpg.create_pool(...)

        async def build() -> str:
            return await my_builder.contact_page(associate_id=42)

        xml = await cache.get_or_build("WebClient", "Web", 42, "Contact", build)

    Keep one for the life of the service. Any number of tasks may use it at once, in any number of processes: of those who
    miss the same key together one builds, and the others wait for what it stores. Who waits holds no connection.

    Args:
        database: Connections to the database that has the cache. A pool: a single connection would be in use while
            *build* runs, and inside a transaction there is no protection.
        schema: Where ``configcache migrate`` has created table and functions.
        switch: Whether to cache at all.
        lease_s: A builder that takes longer, or is dead, may be replaced by another. It must be longer than the longest
            build: under steady load a slow builder is else replaced each time before it can store, and nothing is ever
            cached.
        wait_s: The longest to wait for somebody else's build.
        statement_timeout_s: The longest that one statement takes, waiting for a connection included.
        poll: Delays between two looks while waiting.

    Raises:
        ValueError: A number is not positive, or the schema is empty.
    """

    def __init__(
        self,
        database: Database,
        *,
        schema: str = "public",
        switch: CacheSwitch | None = None,
        lease_s: float = 30.0,
        wait_s: float = 60.0,
        statement_timeout_s: float = 10.0,
        poll: RetryPolicy = _POLL,
    ) -> None:
        if min(lease_s, wait_s, statement_timeout_s) <= 0:
            raise ValueError("lease_s, wait_s and statement_timeout_s must be positive")
        if not schema:
            raise ValueError("schema must not be empty")
        functions = '"' + schema.replace('"', '""') + '".configuration_cache_'
        self._begin_sql = f"SELECT xml, lease FROM {functions}begin($1, $2, $3, $4, $5, $6, $7)"
        self._store_sql = f"SELECT {functions}store($1, $2, $3, $4, $5, $6)"
        self._release_sql = f"SELECT {functions}release($1, $2, $3, $4, $5)"
        self._database = database
        self._switch = switch or CacheSwitch()
        self._lease = timedelta(seconds=lease_s)
        self._wait_s = wait_s
        self._statement_timeout_s = statement_timeout_s
        self._poll = poll
        self._releasing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ConfigurationCache {'on' if self._switch.enabled else 'off'}, over {self._database!r}>"

    async def get_or_build(
        self, application: str, instance: str, associate_id: int, item: str, build: Build
    ) -> str:
        """
        The cached XML, or what *build* gives, which is then stored for everybody else.

        If the row is cleared while *build* runs, what it gives is returned here and to nobody else.

        Raises:
            pydantic.ValidationError: No command could ever clear such a row: a name is blank, an id not positive.
            ValueError: The item's name is too long.
            StillBuilding: Somebody else has been building for ``wait_s``. Nothing was built here.
            Exception: Whatever *build* raises, or the driver before it. Nothing is stored, the next may build at once.
        """
        key = _checked(application, instance, associate_id, item)
        if not self._switch.is_on(application, instance):
            return await build()
        deadline = time.monotonic() + self._wait_s
        attempt = 0
        while True:
            lease = uuid.uuid4()
            begun = await self._begin_or_wait(key, lease)
            if begun.xml is not None:
                return begun.xml
            if begun.is_ours:
                return await self._built(key, lease, build)
            attempt += 1
            await self._wait(key, attempt, deadline)

    async def refresh(
        self, application: str, instance: str, associate_id: int, item: str, build: Build
    ) -> str:
        """
        Build anew whatever is cached, and store it. Until then others are served what was cached before.

        Waits for nobody: whoever is building this key meanwhile can't store any more, and whoever waits for that build
        waits for this one.

        Raises:
            Exception: As for :meth:`get_or_build`, but for ``StillBuilding``. What was cached before stays.
        """
        key = _checked(application, instance, associate_id, item)
        if not self._switch.is_on(application, instance):
            return await build()
        lease = uuid.uuid4()
        await self._begin(key, lease, refresh=True)
        return await self._built(key, lease, build)

    async def _begin(self, key: _Key, lease: uuid.UUID, *, refresh: bool) -> _Begun:
        _refuse_transaction(self._database)
        try:
            xml, taken = await self._fetch(self._begin_sql, *key, self._lease, refresh, lease)
        except BaseException as error:
            # Cancelled, or cut off: the lease may be in force, and nobody would know.
            if not _was_refused(error):
                await self._give_up(key, lease)
            raise
        return _Begun(xml, is_ours=taken is not None)

    async def _begin_or_wait(self, key: _Key, lease: uuid.UUID) -> _Begun:
        try:
            return await self._begin(key, lease, refresh=False)
        except Exception as error:
            if _sqlstate(error) != _SERIALIZATION_FAILURE:
                raise
            # Under REPEATABLE READ the row may be somebody else's, who came after our snapshot.
            return _Begun(None, is_ours=False)

    async def _built(self, key: _Key, lease: uuid.UUID, build: Build) -> str:
        """Build under *lease*, and store if no clear came in between."""
        try:
            began_s = time.monotonic()
            xml = _text(await build())
            took_s = time.monotonic() - began_s
            if not await self._store(key, lease, xml) and took_s > self._lease.total_seconds():
                _log.warning(
                    "the XML of %s was built in %.1f s, but not stored: its lease was for %g s; lease_s must be longer than the"
                    " longest build, or nothing is ever cached under steady load",
                    key,
                    took_s,
                    self._lease.total_seconds(),
                )
        except BaseException:
            await self._give_up(key, lease)
            raise
        return xml

    async def _store(self, key: _Key, lease: uuid.UUID, xml: str) -> bool:
        """Store *xml* for everybody. False: it was cleared meanwhile, or can't be stored."""
        try:
            (is_stored,) = await self._fetch(self._store_sql, *key, lease, xml)
        except Exception as error:
            # What was built is right, and who asked for it shall have it.
            _log.warning("the XML of %s was built and could not be stored: %r", key, error)
            await self._give_up(key, lease)
            return False
        return bool(is_stored)

    async def _wait(self, key: _Key, attempt: int, deadline: float) -> None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise StillBuilding(f"{key} is still being built by somebody else after {self._wait_s:g} s")
        await asyncio.sleep(min(self._poll.delay_s(attempt), left_s))

    async def _give_up(self, key: _Key, lease: uuid.UUID) -> None:
        """Free *key* for the next builder, also for somebody who is cancelled."""
        releasing = asyncio.create_task(self._release(key, lease), name="release a lease")
        self._releasing.add(releasing)
        releasing.add_done_callback(self._releasing.discard)
        await asyncio.shield(releasing)

    async def _release(self, key: _Key, lease: uuid.UUID) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                await self._fetch(self._release_sql, *key, lease)
        except Exception as error:
            _log.warning("the lease of %s could not be released; it expires by itself: %r", key, error)

    async def _fetch(self, statement: str, *arguments: object) -> Sequence[Any]:
        async with asyncio.timeout(self._statement_timeout_s):
            row = await self._database.fetchrow(statement, *arguments)
        if row is None:
            raise TypeError(f"{self._database!r} gave no row for a statement that has one")
        return tuple(row.values()) if isinstance(row, Mapping) else row


def _checked(application: str, instance: str, associate_id: int, item: str) -> _Key:
    # A row that no command can name would stay for ever.
    ClearConfigurationCache.for_associate(application, instance, associate_id)
    if len(item) > _LONGEST_ITEM:
        raise ValueError(f"item must be at most {_LONGEST_ITEM} characters long, not {len(item)}")
    return _Key(application, instance, associate_id, item)


def _text(built: object) -> str:
    if not isinstance(built, str):
        raise TypeError(f"build must give a str, not {type(built).__name__}")
    return built


def _was_refused(error: BaseException) -> bool:
    """Whether the server said no. Otherwise the outcome is not known."""
    state = _sqlstate(error)
    return state is not None and not state.startswith(_CONNECTION_LOST)


def _sqlstate(error: BaseException) -> str | None:
    # Every driver has the server's own word under this name.
    state: str | None = getattr(error, "sqlstate", None)
    return state


def _refuse_transaction(database: Database) -> None:
    is_in_transaction: Callable[[], bool] | None = getattr(database, "is_in_transaction", None)
    if is_in_transaction is None:
        return  # only a connection of asyncpg can tell; a pool is none
    if is_in_transaction():
        raise ValueError(
            "the connection is in a transaction, so no clear would see the lease: pass a pool, or a connection outside"
        )


class PsycopgPool(Protocol):
    """What is needed of ``psycopg_pool.AsyncConnectionPool``: connections that commit at the end of their block."""

    def connection(self) -> AbstractAsyncContextManager[Any]: ...


class PsycopgDatabase:
    """
    A pool of psycopg's connections as a :class:`Database`::

        cache = ConfigurationCache(PsycopgDatabase(pool))  # psycopg_pool.AsyncConnectionPool(...)
    """

    def __init__(self, pool: PsycopgPool) -> None:
        self._pool = pool

    def __repr__(self) -> str:
        return f"PsycopgDatabase({self._pool!r})"

    async def fetchrow(self, statement: str, /, *arguments: object) -> Row | None:
        """Run *statement*, with its parameters written as psycopg has them; see :class:`Database`."""
        # Each parameter occurs once and in order, in all the statements above.
        in_its_style = re.sub(r"\$\d+", "%s", statement.replace("%", "%%"))
        async with self._pool.connection() as connection:
            cursor = await connection.execute(in_its_style, arguments)
            row: Row | None = await cursor.fetchone()
        return row
