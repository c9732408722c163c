"""Migrations, on a real server."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from configcache_worker.postgres.migrations import (
    ConnectionFailed,
    Migration,
    MigrationError,
    available,
    migrate,
)

NOTES = Migration("0001_notes", "CREATE TABLE note (id int); INSERT INTO note VALUES (1);")
MORE = Migration("0002_more", "INSERT INTO note VALUES (2)")
FAILING = Migration("0003_failing", "INSERT INTO note VALUES (3); SELECT 1 / 0")


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_the_cache_table_is_as_documented(database, sql):
    applied = await migrate(database)

    assert applied == available()
    columns = await sql.fetch(
        "SELECT column_name, data_type, collation_name, is_nullable FROM information_schema.columns "
        "WHERE table_name = 'configuration_cache' ORDER BY ordinal_position"
    )
    assert [tuple(column) for column in columns] == [
        ("application", "text", "C", "NO"),
        ("instance", "text", "C", "NO"),
        ("associate_id", "bigint", None, "NO"),
        ("item", "text", "C", "NO"),
        ("xml", "text", None, "YES"),
        ("built_at", "timestamp with time zone", None, "YES"),
        ("lease", "uuid", None, "YES"),
        ("leased_until", "timestamp with time zone", None, "YES"),
    ]


async def test_the_longest_names_fit_into_the_primary_key(database, sql):
    await migrate(database)
    # Four bytes each in UTF-8, and too varied for the index to compress.
    characters = "".join(map(chr, range(0x10000, 0x10000 + 700)))
    insert = (
        "INSERT INTO configuration_cache (application, instance, associate_id, item) VALUES ($1, $2, $3, $4)"
    )

    await sql.execute(insert, characters[:254], characters[254:508], 2**63 - 1, characters[508:636])

    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute(insert, "a", "i", 1, "x" * 129)


async def test_a_second_run_finds_nothing_to_do(database):
    await migrate(database)

    assert await migrate(database) == []


async def test_only_what_is_new_is_applied_in_order(database, sql):
    await migrate(database, migrations=[NOTES])

    assert await migrate(database, migrations=[NOTES, MORE]) == [MORE]
    assert [row["id"] for row in await sql.fetch("SELECT id FROM note ORDER BY id")] == [1, 2]


async def test_many_runs_at_once_apply_each_file_once(database, sql):
    applied = await asyncio.gather(*(migrate(database, schema="shared") for _ in range(5)))

    assert sorted(map(len, applied)) == [0, 0, 0, 0, len(available())]
    assert await sql.fetchval("SELECT count(*) FROM shared.configcache_migration") == len(available())


async def test_a_dry_run_tells_and_changes_nothing(database, sql):
    assert await migrate(database, schema="later", dry_run=True) == available()

    assert await sql.fetchval("SELECT to_regnamespace('later')") is None


async def test_the_schema_is_created_and_its_name_quoted(database, sql):
    await migrate(database, schema='my "own" Schema')

    assert await sql.fetchval('SELECT count(*) FROM "my ""own"" Schema".configuration_cache') == 0
    assert await sql.fetchval("SELECT to_regclass('public.configuration_cache')") is None
    assert await migrate(database, schema='my "own" Schema') == []


async def test_an_applied_file_must_not_change(database):
    await migrate(database, migrations=[NOTES])
    changed = replace(NOTES, sql="CREATE TABLE note (id bigint)")

    with pytest.raises(MigrationError, match="0001_notes has changed since it was applied"):
        await migrate(database, migrations=[changed])


async def test_a_file_that_fails_leaves_nothing_behind_and_keeps_those_before_it(database, sql):
    with pytest.raises(MigrationError, match=r"0003_failing: division by zero \(SQLSTATE 22012\)"):
        await migrate(database, migrations=[NOTES, MORE, FAILING])

    assert [row["id"] for row in await sql.fetch("SELECT id FROM note ORDER BY id")] == [1, 2]
    assert await migrate(database, migrations=[NOTES, MORE]) == []


async def test_a_migration_that_does_not_end_is_not_waited_for_for_ever(database, sql):
    await sql.execute("SELECT pg_advisory_lock(6513507, hashtext('public'))")

    with pytest.raises(MigrationError, match="another migration"):
        await migrate(database, lock_timeout_s=0.05)


async def test_no_connection_is_told_without_the_password():
    with pytest.raises(ConnectionFailed, match=r"no connection to PostgreSQL at 127\.0\.0\.1:1: ") as failure:
        await migrate("postgresql://me:s3cret@127.0.0.1:1/db")

    assert "s3cret" not in str(failure.value)


async def test_a_url_that_cannot_be_understood_is_not_quoted():
    with pytest.raises(ConnectionFailed, match="percent-encoding") as failure:
        await migrate("postgresql://me:s3cr:et@[127.0.0.1:5432/db")

    assert "s3cr" not in str(failure.value)
    assert failure.value.__cause__ is None
