"""
Brings the worker's own table layout up to date: the files of ``sql/``, in order, each applied once.

Safe to run from many places at once: they take turns under an advisory lock of the session (not through PgBouncer in
transaction mode). Waiting for a database that isn't there yet is left to the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources

import asyncpg

from configcache_worker.postgres.connection import PlainConnection, connect
from configcache_worker.postgres.faults import ConnectionFailed, describe, sqlstate_of
from configcache_worker.postgres.statements import quoted

__all__ = ["ConnectionFailed", "Migration", "MigrationError", "available", "migrate"]

_CLOSE_TIMEOUT_S = 2.0

# The two halves of an advisory lock's key: "ccc" for configcache, and the schema.
_LOCK_CLASS = 0x636363
_LOCK_OBJECT = "hashtext(coalesce($1::text, current_schema()::text, ''))"

_CREATE_RECORD = """\
CREATE TABLE configcache_migration (
    name       text        PRIMARY KEY,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """Tells whether the file still is what was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


class MigrationError(Exception):
    """The database answered, and the migration can't go on. What was applied before stays applied."""


def available() -> list[Migration]:
    """The migrations this version brings, in the order in which they are applied."""
    folder = resources.files(__package__) / "sql"
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name
    )
    return [Migration(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files]


async def migrate(
    url: str,
    *,
    schema: str | None = None,
    dry_run: bool = False,
    connect_timeout_s: float = 10.0,
    lock_timeout_s: float = 60.0,
    migrations: Sequence[Migration] | None = None,
) -> list[Migration]:
    """
    Apply what has not been applied yet, each file in a transaction of its own.

    Args:
        url: ``postgresql://...``, of a role that may create tables.
        schema: Where the tables go; created if it is missing. None: where the connection's ``search_path`` says.
        dry_run: Change nothing, only tell.
        connect_timeout_s: Longest time to connect to a host.
        lock_timeout_s: Longest wait for another migration, or for a lock on a table.
        migrations: Others than the :func:`available`.

    Returns:
        What was applied, or with *dry_run* would be.

    Raises:
        ConnectionFailed: No connection, or it was lost.
        MigrationError: A file has changed since it was applied, or the server refused something.
    """
    wanted = available() if migrations is None else migrations
    settings = {"application_name": "configcache migrate", "lock_timeout": str(round(lock_timeout_s * 1000))}
    if schema is not None:
        settings["search_path"] = quoted(schema)
    connection = await connect(url, timeout_s=connect_timeout_s, server_settings=settings)
    try:
        with _readable_errors(connection):
            if dry_run:
                return await _pending(connection, wanted)
            async with _lock(connection, schema):
                await _prepare(connection, schema)
                pending = await _pending(connection, wanted)
                for migration in pending:
                    await _apply(connection, migration)
                return pending
    finally:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=_CLOSE_TIMEOUT_S)


@asynccontextmanager
async def _lock(connection: PlainConnection, schema: str | None) -> AsyncIterator[None]:
    # Of the session, not of a transaction: it spans several. Closing the connection releases it too.
    try:
        await connection.execute(f"SELECT pg_advisory_lock({_LOCK_CLASS}, {_LOCK_OBJECT})", schema)
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError("another migration of this schema is running and does not end") from error
    yield
    await connection.execute(f"SELECT pg_advisory_unlock({_LOCK_CLASS}, {_LOCK_OBJECT})", schema)


async def _prepare(connection: PlainConnection, schema: str | None) -> None:
    # Looked up first: CREATE SCHEMA IF NOT EXISTS takes the right to create one even where there is nothing to do.
    if schema is not None and await connection.fetchval("SELECT to_regnamespace($1)", quoted(schema)) is None:
        await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
    if not await _has_record(connection):
        await connection.execute(_CREATE_RECORD)


async def _pending(connection: PlainConnection, wanted: Sequence[Migration]) -> list[Migration]:
    applied: dict[str, str] = {}
    if await _has_record(connection):
        rows = await connection.fetch("SELECT name, checksum FROM configcache_migration")
        applied = {row["name"]: row["checksum"] for row in rows}
    for migration in wanted:
        if applied.get(migration.name, migration.checksum) != migration.checksum:
            raise MigrationError(
                f"{migration.name} has changed since it was applied here: restore it, and put the change into a new file"
            )
    return [migration for migration in wanted if migration.name not in applied]


async def _has_record(connection: PlainConnection) -> bool:
    return await connection.fetchval("SELECT to_regclass('configcache_migration')") is not None


async def _apply(connection: PlainConnection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO configcache_migration (name, checksum) VALUES ($1, $2)",
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as error:
        if sqlstate_of(error) is None:
            raise
        raise MigrationError(f"{migration.name}: {describe(error)}") from error


@contextmanager
def _readable_errors(connection: PlainConnection) -> Iterator[None]:
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if sqlstate_of(error) is not None:
            raise MigrationError(describe(error)) from error
        if connection.is_closed():
            raise ConnectionFailed(f"connection to the database lost: {describe(error)}") from error
        raise
