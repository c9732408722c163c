"""Commands asked for in a transaction: by SQL, and by the drivers that services use."""

from __future__ import annotations

import unicodedata

import asyncpg
import psycopg
import pytest

from configcache import ClearConfigurationCache, Reason, blocking, outbox
from configcache_worker.local.servers import Servers
from configcache_worker.postgres.migrations import migrate
from tests.conftest import available
from tests.tables import migrated

ALL = ClearConfigurationCache.for_all("WebClient", "Web")
ONE = ClearConfigurationCache.for_associate("WebClient", "Web", 42)
NASTY = [
    "O'Brien",
    "back\\slash",
    "\\'; DROP TABLE configuration_cache_outbox; --",
    "100 % sure: :yes ? $1 {x}",
    "Größe",
    "日本語",
    "\U0001f600",
    'double "quotes"',
    "a" * 254,
]


@pytest.fixture(scope="module")
def database(servers: Servers):
    """The URL of a migrated database, for all tests here."""
    with available(), servers.database(migrated) as url:
        yield url


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    await connection.execute("TRUNCATE configuration_cache_outbox")
    yield connection
    await connection.close()


async def pending(sql):
    """The commands in the outbox, oldest first."""
    rows = await sql.fetch(
        "SELECT application, instance, for_all_associates, associate_id FROM configuration_cache_outbox ORDER BY id"
    )
    return [ClearConfigurationCache(**row) for row in rows]


# From a service


async def test_asyncpg_enqueues_within_its_transaction(database, sql):
    connection = await asyncpg.connect(database)
    async with connection.transaction():
        await outbox.enqueue(connection, ALL)
        await outbox.enqueue(connection, ONE)
        assert await pending(sql) == []
    await connection.close()

    assert await pending(sql) == [ALL, ONE]


async def test_a_connection_of_asyncpgs_pool_will_do(database, sql):
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await outbox.enqueue(connection, ONE)
        await outbox.enqueue(pool, ALL)

    assert await pending(sql) == [ONE, ALL]


async def test_psycopg_enqueues_within_its_transaction(database, sql):
    async with await psycopg.AsyncConnection.connect(database) as connection:
        await outbox.enqueue(connection, ALL)
        assert await pending(sql) == []

    assert await pending(sql) == [ALL]


async def test_a_connection_or_a_cursor_that_blocks_has_a_function_that_blocks(database, sql):
    with psycopg.connect(database) as connection:
        blocking.enqueue(connection, ALL)
        with connection.cursor() as cursor:
            blocking.enqueue(cursor, ONE)

    assert await pending(sql) == [ALL, ONE]


async def test_a_transaction_that_rolls_back_asked_for_nothing(database, sql):
    transaction = sql.transaction()
    await transaction.start()
    await outbox.enqueue(sql, ALL)
    await transaction.rollback()

    assert await pending(sql) == []


@pytest.mark.parametrize("standard_strings", ["on", "off"])
async def test_any_name_arrives_as_it_is(sql, standard_strings):
    await sql.execute(f"SET standard_conforming_strings = {standard_strings}")
    commands = [ClearConfigurationCache.for_all(name, name) for name in NASTY]
    for command in commands:
        await outbox.enqueue(sql, command)

    assert await pending(sql) == commands


async def test_the_same_command_is_enqueued_as_often_as_it_is_asked_for(sql):
    async with sql.transaction():
        for _ in range(3):
            await outbox.enqueue(sql, ONE)

    assert await pending(sql) == [ONE] * 3


async def test_equal_commands_of_open_transactions_do_not_wait_for_each_other(database, sql):
    other = await asyncpg.connect(database, server_settings={"lock_timeout": "2s"})
    first = sql.transaction()
    await first.start()
    await outbox.enqueue(sql, ONE)
    async with other.transaction():
        await outbox.enqueue(other, ONE)
    await first.commit()
    await other.close()

    assert await pending(sql) == [ONE] * 2


async def test_the_schema_may_be_named(servers):
    with servers.database() as url:
        await migrate(url, schema="the cache")
        connection = await asyncpg.connect(url)
        await outbox.enqueue(connection, ONE, schema="the cache")
        count = await connection.fetchval('SELECT count(*) FROM "the cache".configuration_cache_outbox')
        await connection.close()

    assert count == 1


@pytest.mark.parametrize("schema", ["", "a\0b", 'quo"te', "a.b"])
def test_a_name_that_no_schema_should_have_is_refused(schema):
    with pytest.raises(ValueError, match="schema must"):
        outbox.statement(ONE, schema=schema)


# By SQL


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("NULL, 'Web', true", Reason.MISSING_APPLICATION),
        ("'WebClient', NULL, true", Reason.MISSING_INSTANCE),
        ("'', 'Web', true", Reason.INVALID_APPLICATION),
        ("'  ', 'Web', true", Reason.INVALID_APPLICATION),
        ("E'a\\tb', 'Web', true", Reason.INVALID_APPLICATION),
        ("'WebClient', ' Web', true", Reason.INVALID_INSTANCE),
        ("'WebClient', repeat('x', 255), true", Reason.INVALID_INSTANCE),
        ("'WebClient', 'Web', NULL", Reason.INVALID_FOR_ALL_ASSOCIATES),
        ("'WebClient', 'Web'", Reason.MISSING_ASSOCIATE),
        ("'WebClient', 'Web', false, 0", Reason.INVALID_ASSOCIATE_ID),
        ("'WebClient', 'Web', true, 42", Reason.UNEXPECTED_ASSOCIATE),
    ],
)
async def test_what_breaks_the_contract_is_refused_with_its_reason(sql, arguments, reason):
    with pytest.raises(asyncpg.InvalidParameterValueError, match=f"^{reason}: "):
        await sql.execute(f"SELECT enqueue_clear_configuration_cache({arguments})")

    assert await pending(sql) == []


async def test_names_are_judged_as_by_the_contract_character_by_character(sql):
    def is_accepted(name):
        try:
            ClearConfigurationCache.for_all(name, "Web")
        except ValueError:
            return False
        return True

    suspects = [
        chr(code)
        for code in range(1, 0x110000)
        if not 0xD800 <= code < 0xE000
        and (
            code < 0x300 or chr(code).isspace() or unicodedata.category(chr(code)) in {"Cc", "Zs", "Zl", "Zp"}
        )
    ]
    names = [
        name
        for character in suspects
        for name in (character, f"{character}a", f"a{character}", f"a{character}a")
    ]

    judged = await sql.fetchval(
        "SELECT array_agg(configuration_cache_fault_of_name('application', name) IS NULL ORDER BY n) "
        "FROM unnest($1::text[]) WITH ORDINALITY AS u(name, n)",
        names,
    )

    assert judged == [is_accepted(name) for name in names]


async def test_no_row_that_could_not_be_published_gets_into_the_table(sql):
    for values in (
        "' a', 'b', true, NULL",
        "'a', '', true, NULL",
        "'a', 'b', true, 1",
        "'a', 'b', false, NULL",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(
                "INSERT INTO configuration_cache_outbox (application, instance, for_all_associates, associate_id) "
                f"VALUES ({values})"
            )


async def test_the_right_to_execute_the_function_is_all_it_takes_and_is_not_everybodys(database, sql):
    await sql.execute("DROP ROLE IF EXISTS outbox_producer; CREATE ROLE outbox_producer")
    await sql.execute("SET ROLE outbox_producer")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await outbox.enqueue(sql, ONE)
    await sql.execute("RESET ROLE")
    await sql.execute(
        "GRANT EXECUTE ON FUNCTION enqueue_clear_configuration_cache(text, text, boolean, bigint) TO outbox_producer"
    )
    await sql.execute("SET ROLE outbox_producer")
    # A table of the caller's own, by the same name, must not be taken for the outbox.
    await sql.execute("CREATE TEMP TABLE configuration_cache_outbox (id int)")
    await outbox.enqueue(sql, ONE)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await sql.execute("DELETE FROM public.configuration_cache_outbox")
    await sql.execute("RESET ROLE; DROP TABLE pg_temp.configuration_cache_outbox")

    assert await pending(sql) == [ONE]
    await sql.execute("DROP OWNED BY outbox_producer; DROP ROLE outbox_producer")
