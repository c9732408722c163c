"""The filling side of the cache as psql users have it: begin, store and release, on a real server."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import asyncpg
import pytest

from configcache_worker.core.ports import Scope
from configcache_worker.postgres.cache_table import PostgresCacheTable
from configcache_worker.postgres.connection import TimeLimits
from configcache_worker.postgres.migrations import migrate
from configcache_worker.postgres.rows import CacheRow, CacheRows
from configcache_worker.postgres.statements import TableLayout
from tests import tables
from tests.conftest import available

KEY = ("WebClient", "Web", 42, "Contact")
IN_THE_PAST = "UPDATE configuration_cache SET leased_until = clock_timestamp() - interval '1 second'"


class Reader:
    """Somebody with a connection of their own."""

    def __init__(self, connection):
        self.connection = connection

    async def begin(self, *key, **options):
        named = "".join(f", {name} => {value}" for name, value in options.items())
        return await self.connection.fetchrow(
            f"SELECT * FROM configuration_cache_begin($1, $2, $3, $4{named})", *(key or KEY)
        )

    async def store(self, lease, xml="<x/>", *key):
        return await self.connection.fetchval(
            "SELECT configuration_cache_store($1, $2, $3, $4, $5, $6)", *(key or KEY), lease, xml
        )

    async def release(self, lease):
        return await self.connection.fetchval(
            "SELECT configuration_cache_release($1, $2, $3, $4, $5)", *KEY, lease
        )

    async def row(self):
        return await self.connection.fetchrow(
            "SELECT xml, lease, built_at IS NOT NULL AS is_built FROM configuration_cache"
        )


@pytest.fixture(scope="module")
def migrated(servers):
    """One database for all tests of the module; each finds the table empty."""
    with available(), servers.database(tables.migrated) as url:
        yield url


@pytest.fixture
async def connect(migrated):
    """Opens connections to the database, and closes them at the end."""
    connections = []

    async def connect():
        connections.append(await asyncpg.connect(migrated))
        return Reader(connections[-1])

    await (await connect()).connection.execute("TRUNCATE configuration_cache")
    yield connect
    for connection in connections:
        await connection.close()


@pytest.fixture
async def reader(connect):
    return await connect()


@pytest.fixture
async def clear(migrated):
    """Clears associate 42 as the worker does."""
    table = PostgresCacheTable(migrated, layout=TableLayout(), limits=TimeLimits())

    async def clear():
        return await table.clear([Scope("WebClient", "Web", 42)], after=None, limit=100)

    yield clear
    await table.close()


async def test_who_finds_nothing_gets_the_lease_and_what_was_stored_is_everybodys(reader):
    begun = await reader.begin()
    assert (begun["xml"], begun["leased_until"] is None) == (None, False)

    assert await reader.store(begun["lease"], "<built/>")

    assert tuple(await reader.begin()) == ("<built/>", None, None)
    assert tuple(await reader.row()) == ("<built/>", None, True)


async def test_while_one_builds_the_others_are_told_to_wait_and_write_nothing(reader):
    await reader.begin()
    before = await reader.connection.fetchval("SELECT xmin || ' ' || xmax FROM configuration_cache")

    other = await reader.begin()

    assert (other["xml"], other["lease"], other["leased_until"] is None) == (None, None, False)
    after = await reader.connection.fetchval("SELECT xmin || ' ' || xmax FROM configuration_cache")
    assert after == before


async def test_what_is_stored_after_a_clear_is_refused(reader, clear):
    begun = await reader.begin()

    assert (await clear()).rows == 1

    assert not await reader.store(begun["lease"])
    assert await reader.row() is None


async def test_the_lease_of_before_a_clear_does_not_store_into_the_next_builders_row(reader, clear):
    old = await reader.begin()
    await clear()
    new = await reader.begin()

    assert not await reader.store(old["lease"], "<old/>")
    assert not await reader.release(old["lease"])
    assert await reader.store(new["lease"], "<new/>")

    assert (await reader.begin())["xml"] == "<new/>"


async def test_an_expired_lease_is_taken_over_and_then_worth_nothing(reader):
    old = await reader.begin()
    await reader.connection.execute(IN_THE_PAST)

    new = await reader.begin()

    assert new["lease"] not in (None, old["lease"])
    assert not await reader.store(old["lease"])
    assert await reader.store(new["lease"])


async def test_an_expired_lease_that_nobody_took_over_may_still_store(reader):
    begun = await reader.begin(lease_for="'1 microsecond'")

    assert await reader.store(begun["lease"])


async def test_a_build_that_is_given_up_leaves_nothing_behind(reader):
    begun = await reader.begin()

    assert await reader.release(begun["lease"])

    assert await reader.row() is None
    assert not await reader.release(begun["lease"])
    assert not await reader.store(begun["lease"])


async def test_what_is_being_built_or_was_given_up_by_a_dead_builder_is_not_counted_as_cached(
    reader, migrated
):
    await reader.begin()
    await reader.connection.execute(IN_THE_PAST)
    async with CacheRows(migrated, TableLayout()) as rows:
        assert await rows.all() == set()

        await reader.store((await reader.begin())["lease"])

        assert await rows.all() == {CacheRow(*KEY)}


async def test_a_refresh_keeps_the_old_xml_readable_until_the_new_one_is_stored(reader):
    await reader.store((await reader.begin())["lease"], "<old/>")

    refresh = await reader.begin(refresh=True)

    assert (refresh["xml"], refresh["lease"] is None) == (None, False)
    assert (await reader.begin())["xml"] == "<old/>"
    assert await reader.store(refresh["lease"], "<new/>")
    assert (await reader.begin())["xml"] == "<new/>"


async def test_a_refresh_that_is_given_up_leaves_the_old_xml(reader):
    await reader.store((await reader.begin())["lease"], "<old/>")
    refresh = await reader.begin(refresh=True)

    assert await reader.release(refresh["lease"])

    assert tuple(await reader.row()) == ("<old/>", None, True)


async def test_a_refresh_waits_for_nobody_and_its_predecessor_stores_nothing(reader):
    build = await reader.begin()

    refresh = await reader.begin(refresh=True)

    assert not await reader.store(build["lease"], "<earlier/>")
    assert await reader.store(refresh["lease"], "<later/>")


async def test_a_clear_ends_a_refresh_too(reader, clear):
    await reader.store((await reader.begin())["lease"], "<old/>")
    refresh = await reader.begin(refresh=True)

    await clear()

    assert not await reader.store(refresh["lease"])
    assert (await reader.begin())["xml"] is None


async def test_of_all_who_come_at_once_one_gets_the_lease(connect):
    readers = [await connect() for _ in range(12)]

    for associate in range(1, 21):
        begun = await asyncio.gather(
            *(reader.begin("WebClient", "Web", associate, "Contact") for reader in readers)
        )
        assert sum(row["lease"] is not None for row in begun) == 1


async def test_of_all_who_find_an_expired_lease_one_takes_it_over(connect):
    readers = [await connect() for _ in range(12)]

    for _ in range(20):
        await readers[0].connection.execute(IN_THE_PAST)
        begun = await asyncio.gather(*(reader.begin() for reader in readers))
        assert sum(row["lease"] is not None for row in begun) == 1


async def test_a_store_that_waits_for_a_clear_to_commit_is_refused(connect):
    reader, clearer, watcher = await connect(), await connect(), await connect()
    begun = await reader.begin()

    async with clearer.connection.transaction():
        await clearer.connection.execute("DELETE FROM configuration_cache")
        storing = asyncio.create_task(reader.store(begun["lease"]))
        await waiting_for_a_lock(watcher.connection)

    assert not await storing


async def test_a_clear_that_waits_for_a_store_to_commit_deletes_what_was_stored(connect, clear):
    reader, watcher = await connect(), await connect()
    begun = await reader.begin()

    async with reader.connection.transaction():
        await reader.store(begun["lease"])
        clearing = asyncio.create_task(clear())
        await waiting_for_a_lock(watcher.connection)

    assert (await clearing).rows == 1
    assert await reader.row() is None


async def waiting_for_a_lock(connection):
    async with asyncio.timeout(10):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.005)


async def test_begin_and_store_in_one_transaction_are_refused(reader):
    transaction = reader.connection.transaction()
    await transaction.start()
    begun = await reader.begin()

    with pytest.raises(asyncpg.InvalidTransactionStateError, match="must be committed before"):
        await reader.store(begun["lease"])

    await transaction.rollback()
    assert await reader.row() is None


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        (("", "Web", 42, "Contact"), "invalid-application: "),
        (("WebClient", " Web", 42, "Contact"), "invalid-instance: "),
        (("WebClient ", "Web", 42, "Contact"), "invalid-application: "),
        (("WebClient", "\u00a0Web", 42, "Contact"), "invalid-instance: "),
        (("WebClient\u2009", "Web", 42, "Contact"), "invalid-application: "),
        (("\u3000", "Web", 42, "Contact"), "invalid-application: application must not be blank"),
        (("WebClient", "W\teb", 42, "Contact"), "invalid-instance: "),
        (("WebClient", "W\u0085eb", 42, "Contact"), "invalid-instance: "),
        (("W" * 255, "Web", 42, "Contact"), "invalid-application: "),
        (("WebClient", "Web", 0, "Contact"), "invalid-associate-id: "),
        ((None, "Web", 42, "Contact"), "missing-application: "),
        (("WebClient", None, 42, "Contact"), "missing-instance: "),
        (("WebClient", "Web", None, "Contact"), "invalid-associate-id: "),
        (("WebClient", "Web", 42, None), "item must not be null"),
    ],
    ids=str,
)
async def test_a_key_that_no_command_could_clear_is_refused_with_what_is_wrong(reader, key, fault):
    with pytest.raises(
        asyncpg.InvalidParameterValueError, match="no command could ever clear this row"
    ) as refused:
        await reader.begin(*key)

    assert refused.value.detail.startswith(fault)


@pytest.mark.parametrize(
    "key", [("ü" * 254, "日本 語", 2**63 - 1, "x" * 128), ("a", "i", 1, "")], ids=["longest", "shortest"]
)
async def test_every_key_that_a_command_can_name_may_be_built(reader, key):
    begun = await reader.begin(*key)

    assert await reader.store(begun["lease"], "<x/>", *key)
    assert (await reader.begin(*key))["xml"] == "<x/>"


@pytest.mark.parametrize(
    "options", [{"lease_for": "'0 s'"}, {"lease_for": "NULL"}, {"new_lease": "NULL"}], ids=str
)
async def test_a_lease_for_no_time_or_without_a_name_is_refused(reader, options):
    with pytest.raises(asyncpg.InvalidParameterValueError, match="lease_for must be longer than nothing"):
        await reader.begin(**options)


async def test_the_rights_of_the_builder_in_the_compose_file_are_enough(reader):
    rights = (Path(__file__).parents[2] / "deploy/postgres/rights.sql").read_text(encoding="utf-8")
    (grant,) = (line for line in rights.splitlines() if line.endswith(" TO builder;"))
    await reader.connection.execute(
        f"DROP ROLE IF EXISTS builder; CREATE ROLE builder; {grant} SET ROLE builder"
    )

    assert await reader.release((await reader.begin())["lease"])
    assert await reader.store((await reader.begin())["lease"])
    assert await reader.release((await reader.begin(refresh=True))["lease"])

    await reader.connection.execute("RESET ROLE; DROP OWNED BY builder; DROP ROLE builder")


async def test_null_is_no_xml(reader):
    begun = await reader.begin()

    with pytest.raises(
        asyncpg.NullValueNotAllowedError, match="configuration_cache_release gives up a build"
    ):
        await reader.store(begun["lease"], None)


async def test_the_functions_find_their_table_whatever_the_callers_search_path_is(database):
    await migrate(database, schema="elsewhere")
    connection = await asyncpg.connect(database, server_settings={"search_path": "pg_catalog"})

    lease = await connection.fetchval(
        "SELECT lease FROM elsewhere.configuration_cache_begin('WebClient', 'Web', 42, 'Contact')"
    )

    assert await connection.fetchval("SELECT lease FROM elsewhere.configuration_cache") == lease
    await connection.close()


async def test_plans_made_on_an_empty_table_still_use_the_index_once_rows_have_come(reader):
    connection, lease = reader.connection, uuid.uuid4()
    await connection.execute("ALTER TABLE configuration_cache SET (autovacuum_enabled = off)")
    await connection.execute("VACUUM ANALYZE configuration_cache")
    for _ in range(10):  # a server considers a generic plan from the sixth time on
        await reader.release((await reader.begin())["lease"])
        await reader.store(lease)
    await connection.execute(
        "INSERT INTO configuration_cache SELECT 'WebClient', 'Web', a, 'page', '<x/>' FROM generate_series(1, 5000) AS a"
    )
    scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'configuration_cache'"
    await connection.execute("SELECT pg_stat_force_next_flush()")
    before = await connection.fetchval(scans)

    await reader.store((await reader.begin())["lease"])
    await reader.release((await reader.begin(refresh=True))["lease"])

    await connection.execute("SELECT pg_stat_force_next_flush()")
    assert await connection.fetchval(scans) == before
