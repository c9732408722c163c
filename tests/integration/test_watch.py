"""Watched tables: what enqueues a clear, what does not, and that nobody's transaction pays for it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from configcache_worker.local.servers import Servers
from tests.conftest import available
from tests.tables import migrated

PLAIN = """
CREATE TABLE extapp (
    id int PRIMARY KEY, name text, url text, settings json, price numeric, ratio float8, place point,
    updated_at timestamptz DEFAULT now(), name_length int GENERATED ALWAYS AS (length(name)) STORED
);
INSERT INTO extapp (id, name, settings, price, ratio) VALUES (1, 'one', '{"a": 1}', 1.0, 0.1), (2, 'two', '{}', 2.0, 0.2);
"""
WATCH = "SELECT configuration_cache_watch('extapp', 'WebClient', 'Web', '{updated_at}')"


@pytest.fixture(scope="module")
def database(servers: Servers):
    """The URL of a migrated database, for all tests here; each makes its tables in the schema ``test``."""
    with available(), servers.database(migrated) as url:
        yield url


@pytest.fixture
async def sql(database):
    name = database.rpartition("/")[2]
    connection = await asyncpg.connect(database)
    await connection.execute(
        f"CREATE SCHEMA test; ALTER DATABASE {name} SET search_path = test, public; SET search_path = test, public"
    )
    yield connection
    await connection.execute(
        "DROP SCHEMA test CASCADE; DROP FOREIGN DATA WRAPPER IF EXISTS nothing CASCADE;"
        "TRUNCATE configuration_cache_outbox"
    )
    await connection.close()


@pytest.fixture
async def watched(sql):
    """The same connection, with a watched table."""
    await sql.execute(PLAIN)
    assert await sql.fetchval(WATCH) == 1
    return sql


async def clears(sql):
    """How many clears for all associates of WebClient / Web were enqueued; they are gone then."""
    rows = await sql.fetch(
        "DELETE FROM configuration_cache_outbox RETURNING application, instance, for_all_associates, associate_id"
    )
    assert {tuple(row) for row in rows} <= {("WebClient", "Web", True, None)}
    return len(rows)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO extapp (id) VALUES (3)",
        "INSERT INTO extapp (id) SELECT generate_series(10, 1000)",
        "INSERT INTO extapp (id, name) VALUES (1, 'more') ON CONFLICT (id) DO UPDATE SET name = 'changed'",
        "UPDATE extapp SET name = 'changed' WHERE id = 1",
        "UPDATE extapp SET name = NULL WHERE id = 1",
        "UPDATE extapp SET url = '' WHERE id = 1",
        "UPDATE extapp SET name = CASE id WHEN 1 THEN 'two' ELSE 'one' END",
        "UPDATE extapp SET price = 1.00 WHERE id = 1",
        "UPDATE extapp SET settings = '{\"a\": 2}' WHERE id = 1",
        "UPDATE extapp SET place = '(1,2)' WHERE id = 1",
        "UPDATE extapp SET ratio = 0.10000000000000002 WHERE id = 1",
        "SET extra_float_digits = -10; UPDATE extapp SET ratio = 0.10000000000000002 WHERE id = 1",
        "UPDATE extapp SET id = id + 10",
        "DELETE FROM extapp WHERE id = 1",
        "DELETE FROM extapp",
        "TRUNCATE extapp",
        "WITH gone AS (DELETE FROM extapp WHERE id = 1 RETURNING *) SELECT count(*) FROM gone",
    ],
)
async def test_a_change_enqueues_one_clear(watched, change):
    await watched.execute(change)

    assert await clears(watched) == 1


@pytest.mark.parametrize(
    "no_change",
    [
        "INSERT INTO extapp (id) SELECT 3 WHERE false",
        "INSERT INTO extapp (id) VALUES (1) ON CONFLICT DO NOTHING",
        "UPDATE extapp SET name = 'changed' WHERE id = 99",
        "UPDATE extapp SET name = name, settings = settings, place = place",
        "UPDATE extapp SET updated_at = now() + interval '1 day'",
        "UPDATE extapp SET id = 3 - id, name = CASE id WHEN 1 THEN 'two' ELSE 'one' END,"
        " settings = (CASE id WHEN 1 THEN '{}' ELSE '{\"a\": 1}' END)::json, price = CASE id WHEN 1 THEN 2.0 ELSE 1.0 END,"
        " ratio = CASE id WHEN 1 THEN 0.2 ELSE 0.1 END",
        "DELETE FROM extapp WHERE id = 99",
        "SELECT * FROM extapp FOR UPDATE",
        "CREATE INDEX ON extapp (name)",
    ],
)
async def test_what_changes_nothing_enqueues_nothing(watched, no_change):
    if "3 - id" in no_change:  # two rows that swap their keys and all else: the same rows
        await watched.execute("ALTER TABLE extapp DROP CONSTRAINT extapp_pkey")
    await watched.execute(no_change)

    assert await clears(watched) == 0


async def test_a_merge_enqueues_for_what_it_changed(watched):
    if watched.get_server_version() < (15,):
        pytest.skip("this PostgreSQL has no MERGE")
    merge = (
        "MERGE INTO extapp USING (VALUES ({id}, '{name}')) AS new (id, name) ON extapp.id = new.id "
        "WHEN MATCHED THEN UPDATE SET name = new.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (new.id, new.name)"
    )
    await watched.execute(merge.format(id=1, name="changed"))
    assert await clears(watched) == 1
    await watched.execute(merge.format(id=9, name="new"))
    assert await clears(watched) == 1
    await watched.execute(merge.format(id=9, name="new"))

    assert await clears(watched) == 0


async def test_a_statement_enqueues_for_each_kind_of_change_in_it(watched):
    await watched.execute(
        "INSERT INTO extapp (id, name) VALUES (1, 'changed'), (3, 'new') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    )
    assert await clears(watched) == 2
    if watched.get_server_version() < (15,):
        pytest.skip("this PostgreSQL has no MERGE")
    await watched.execute(
        "MERGE INTO extapp USING (VALUES (1), (2), (4)) AS new (id) ON extapp.id = new.id"
        " WHEN MATCHED AND new.id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET name = 'more'"
        " WHEN NOT MATCHED THEN INSERT (id) VALUES (new.id)"
    )

    assert await clears(watched) == 3


async def test_copy_is_a_change(watched):
    await watched.copy_records_to_table("extapp", columns=["id"], records=[(7,), (8,)])

    assert await clears(watched) == 1


async def test_a_row_deleted_by_a_cascade_is_a_change(sql):
    await sql.execute(
        "CREATE TABLE parent (id int PRIMARY KEY);"
        "CREATE TABLE extapp (id int REFERENCES parent ON DELETE CASCADE);"
        "INSERT INTO parent VALUES (1); INSERT INTO extapp VALUES (1);"
        "SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')"
    )
    await sql.execute("DELETE FROM parent")

    assert await clears(sql) == 1


async def test_a_change_that_is_rolled_back_clears_nothing(watched):
    transaction = watched.transaction()
    await transaction.start()
    await watched.execute("DELETE FROM extapp")
    await transaction.rollback()
    async with watched.transaction():
        inner = watched.transaction()
        await inner.start()
        await watched.execute("TRUNCATE extapp")
        await inner.rollback()

    assert await clears(watched) == 0


async def test_a_change_and_its_clear_become_visible_together(watched, database):
    other = await asyncpg.connect(database)
    async with watched.transaction():
        await watched.execute("DELETE FROM extapp")
        assert await other.fetchval("SELECT count(*) FROM configuration_cache_outbox") == 0
    assert await clears(other) == 1
    await other.close()


async def test_transactions_that_change_the_table_never_wait_for_each_other(watched, database):
    count = 8
    connections = [
        await asyncpg.connect(database, server_settings={"lock_timeout": "100ms"}) for _ in range(count)
    ]
    transactions = [connection.transaction() for connection in connections]
    for number, (connection, transaction) in enumerate(zip(connections, transactions, strict=True)):
        await transaction.start()
        await connection.execute(f"INSERT INTO extapp (id) VALUES ({100 + number})")
        await connection.execute(f"UPDATE extapp SET name = 'x' WHERE id = {100 + number}")
    for transaction in reversed(transactions):
        await transaction.commit()
    for connection in connections:
        await connection.close()

    assert await clears(watched) == 2 * count


async def test_who_changes_the_table_needs_no_right_on_the_outbox(watched):
    await watched.execute(
        "DROP ROLE IF EXISTS watch_editor; CREATE ROLE watch_editor; GRANT USAGE ON SCHEMA test TO watch_editor; GRANT INSERT, UPDATE, SELECT ON extapp TO watch_editor;"
        "SET ROLE watch_editor"
    )
    await watched.execute("CREATE TEMP TABLE configuration_cache_outbox (id int)")
    await watched.execute("SET search_path = pg_temp")
    await watched.execute("UPDATE test.extapp SET name = 'changed'")
    await watched.execute(
        "SET search_path = test, public; RESET ROLE; DROP TABLE pg_temp.configuration_cache_outbox"
    )

    assert await clears(watched) == 1
    await watched.execute("DROP OWNED BY watch_editor; DROP ROLE watch_editor")


async def test_a_cast_that_somebody_defined_is_not_run_with_the_owners_rights(sql):
    await sql.execute(
        "CREATE TYPE pair AS (a int, b int);"
        "CREATE FUNCTION spell(pair) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$;"
        "CREATE CAST (pair AS text) WITH FUNCTION spell(pair);"
        "CREATE TABLE extapp (value pair); INSERT INTO extapp VALUES ('(1,2)');"
        "SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')"
    )
    await sql.execute("UPDATE extapp SET value = '(1,3)'")

    assert await clears(sql) == 1


# Whoever may watch may make a trigger with the function by hand, and must not get at its owner's rights.

INTRUDER = """
DROP ROLE IF EXISTS watch_intruder; CREATE ROLE watch_intruder; GRANT ALL ON SCHEMA test TO watch_intruder;
GRANT EXECUTE ON FUNCTION configuration_cache_watch(regclass, text, text, text[]),
    configuration_cache_unwatch(regclass, text, text), configuration_cache_watched() TO watch_intruder;
SET ROLE watch_intruder;
CREATE SEQUENCE others;
CREATE FUNCTION note() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
    IF current_user <> 'watch_intruder' THEN PERFORM nextval('test.others'); END IF;
    RETURN 1;
END $$;
CREATE TABLE extapp (attrelid int);
INSERT INTO extapp VALUES (1);
"""
BY_HAND = "EXECUTE FUNCTION configuration_cache_watched('WebClient', 'Web')"


@pytest.fixture
async def intruder(sql):
    """A role with the documented rights to watch, a table of its own, and a function that notes, for good, if another runs it."""
    await sql.execute(INTRUDER)
    yield sql
    await sql.execute("RESET ROLE; SET search_path = test, public; DROP OWNED BY watch_intruder CASCADE")
    await sql.execute("DROP ROLE watch_intruder; DISCARD TEMP")


async def another_ran_it(sql):
    return await sql.fetchval("SELECT is_called FROM test.others")


@pytest.mark.parametrize("view", ["before", "after"])
@pytest.mark.parametrize(
    ("event", "change"),
    [
        ("INSERT", "INSERT INTO extapp VALUES (2)"),
        ("UPDATE", "UPDATE extapp SET attrelid = 2"),
        ("DELETE", "DELETE FROM extapp"),
    ],
)
async def test_a_temporary_view_in_place_of_the_changed_rows_is_not_run_with_the_owners_rights(
    intruder, view, event, change
):
    await intruder.execute(
        f"CREATE TEMP VIEW configuration_cache_{view} AS SELECT 1 AS attrelid WHERE test.note() = 1;"
        f"CREATE TRIGGER by_hand AFTER {event} ON extapp FOR EACH STATEMENT {BY_HAND}"
    )
    with pytest.raises(asyncpg.InvalidTableDefinitionError, match="no table or view may be called"):
        await intruder.execute(change)

    assert not await another_ran_it(intruder)
    await intruder.execute("RESET ROLE")
    assert await clears(intruder) == 0


async def test_nor_is_it_after_the_trigger_was_replaced_behind_an_old_snapshot(intruder, database):
    await intruder.execute("SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')")
    name = await intruder.fetchval(
        "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'configuration_cache_watch_insert%'"
    )
    other = await asyncpg.connect(database)
    transaction = intruder.transaction(isolation="repeatable_read")
    await transaction.start()
    await intruder.execute("SELECT FROM pg_trigger")
    await other.execute(
        f"SET ROLE watch_intruder; DROP TRIGGER {name} ON test.extapp;"
        f"CREATE TRIGGER {name} AFTER INSERT ON test.extapp FOR EACH STATEMENT {BY_HAND}"
    )
    await intruder.execute("CREATE TEMP VIEW configuration_cache_after AS SELECT WHERE test.note() = 1")
    with pytest.raises(asyncpg.InvalidTableDefinitionError):
        await intruder.execute("INSERT INTO extapp VALUES (2)")
    await transaction.rollback()
    await other.close()

    assert not await another_ran_it(intruder)


async def test_changed_rows_in_place_of_the_catalog_are_not_run_with_the_owners_rights(intruder):
    await intruder.execute(
        "CREATE TYPE pair AS (a int, b int);"
        "CREATE FUNCTION cast_it(pair) RETURNS oid LANGUAGE sql AS 'SELECT test.note()::oid';"
        "CREATE CAST (pair AS oid) WITH FUNCTION cast_it(pair) AS IMPLICIT;"
        "DROP TABLE extapp; CREATE TABLE extapp (attrelid pair, attname name, attnum int, attisdropped bool, attgenerated text);"
        "INSERT INTO extapp VALUES ('(1,2)', 'x', 1, false, '');"
        f"CREATE TRIGGER by_hand AFTER UPDATE ON extapp REFERENCING OLD TABLE AS pg_attribute FOR EACH STATEMENT {BY_HAND}"
    )
    with pytest.raises(asyncpg.UndefinedTableError):
        await intruder.execute("UPDATE extapp SET attnum = 2")

    assert not await another_ran_it(intruder)


async def test_functions_that_others_may_make_beside_it_are_not_run_with_the_owners_rights(intruder):
    await intruder.execute(
        "RESET ROLE; GRANT CREATE ON SCHEMA public TO watch_intruder; SET ROLE watch_intruder"
    )
    for arguments in ("text, int", "text, text", "text, name"):
        await intruder.execute(
            f"CREATE FUNCTION public.format({arguments}) RETURNS text LANGUAGE sql AS 'SELECT test.note()::text'"
        )
    await intruder.execute(
        "CREATE FUNCTION public.enqueue_clear_configuration_cache(text, text, boolean) RETURNS int"
        " LANGUAGE sql AS 'SELECT test.note()'"
    )
    await intruder.execute(
        "CREATE TRIGGER by_hand AFTER UPDATE ON extapp REFERENCING OLD TABLE AS configuration_cache_before"
        f" NEW TABLE AS configuration_cache_after FOR EACH STATEMENT {BY_HAND}"
    )
    await intruder.execute("UPDATE extapp SET attrelid = 2")

    assert not await another_ran_it(intruder)
    await intruder.execute("RESET ROLE")
    assert await clears(intruder) == 1


async def test_a_transaction_that_began_before_its_table_was_watched_goes_on(sql, database):
    await sql.execute(PLAIN)
    other = await asyncpg.connect(database)
    async with other.transaction(isolation="repeatable_read"):
        await other.execute("SELECT FROM pg_trigger")
        await sql.execute(WATCH)
        await other.execute("INSERT INTO extapp (id) VALUES (3)")
    await other.close()

    assert await clears(sql) == 1


async def test_upper_and_lower_case_differ_whatever_the_collation(sql):
    try:
        await sql.execute(
            "CREATE COLLATION lax (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this PostgreSQL was built without ICU")
    await sql.execute(
        "CREATE TABLE extapp (name text COLLATE lax); INSERT INTO extapp VALUES ('a');"
        "SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')"
    )
    await sql.execute("UPDATE extapp SET name = 'A'")

    assert await clears(sql) == 1


async def test_a_wide_table_with_strange_names_is_watched(sql):
    columns = ", ".join(f'"c {number} "" %L" text' for number in range(300))
    await sql.execute(f'CREATE TABLE "Ext ""App"" s" ({columns}, deleted int)')
    await sql.execute('ALTER TABLE "Ext ""App"" s" DROP COLUMN deleted')
    await sql.execute("""SELECT configuration_cache_watch('"Ext ""App"" s"', 'WebClient', 'Web')""")
    await sql.execute('INSERT INTO "Ext ""App"" s" ("c 1 "" %L") VALUES (1)')
    await sql.execute('UPDATE "Ext ""App"" s" SET "c 299 "" %L" = 1')
    await sql.execute('UPDATE "Ext ""App"" s" SET "c 299 "" %L" = 1')

    assert await clears(sql) == 2


async def test_columns_that_come_later_are_heeded(watched):
    await watched.execute("UPDATE extapp SET name = 'plan it once'")
    await watched.execute("ALTER TABLE extapp ADD COLUMN later int; UPDATE extapp SET later = 1")

    assert await clears(watched) == 2


async def test_where_every_column_is_ignored_an_update_changes_nothing(sql):
    await sql.execute("CREATE TABLE extapp (seen int); INSERT INTO extapp VALUES (1)")
    await sql.execute("SELECT configuration_cache_watch('extapp', 'WebClient', 'Web', '{seen}')")
    await sql.execute("UPDATE extapp SET seen = 2")
    assert await clears(sql) == 0
    await sql.execute("DELETE FROM extapp")

    assert await clears(sql) == 1


# Partitions

PARTITIONED = """
CREATE TABLE extapp (id int, name text) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF extapp FOR VALUES FROM (0) TO (10);
CREATE TABLE high PARTITION OF extapp FOR VALUES FROM (10) TO (30) PARTITION BY RANGE (id);
CREATE TABLE high_1 PARTITION OF high FOR VALUES FROM (10) TO (20);
CREATE TABLE high_2 PARTITION OF high FOR VALUES FROM (20) TO (30);
INSERT INTO extapp VALUES (1, 'one'), (11, 'eleven'), (21, 'more');
"""


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO extapp VALUES (2, 'two'), (12, 'twelve')",
        "UPDATE extapp SET name = 'changed'",
        "UPDATE extapp SET id = 12 WHERE id = 1",
        "DELETE FROM extapp",
        "TRUNCATE extapp",
        "INSERT INTO low VALUES (2, 'two')",
        "UPDATE high SET name = 'changed'",
        "UPDATE high_2 SET name = 'changed'",
        "DELETE FROM low",
        "TRUNCATE high",
        "TRUNCATE high_2",
    ],
)
async def test_a_change_of_a_partitioned_table_or_of_a_partition_enqueues_one_clear(sql, change):
    await sql.execute(PARTITIONED)
    assert await sql.fetchval("SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')") == 5
    await sql.execute(change)

    assert await clears(sql) == 1


async def test_a_partition_that_comes_later_is_watched_through_its_table_and_by_watching_again(sql):
    await sql.execute(PARTITIONED)
    await sql.execute("SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')")
    await sql.execute("CREATE TABLE later PARTITION OF extapp FOR VALUES FROM (30) TO (40)")
    await sql.execute("INSERT INTO extapp VALUES (31, 'through its table')")
    assert await clears(sql) == 1
    await sql.execute("INSERT INTO later VALUES (32, 'directly')")
    assert await clears(sql) == 0
    assert await sql.fetchval("SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')") == 6
    await sql.execute("INSERT INTO later VALUES (33, 'directly')")

    assert await clears(sql) == 1


async def test_children_by_inheritance_are_watched_too(sql):
    await sql.execute("CREATE TABLE extapp (id int); CREATE TABLE child (more text) INHERITS (extapp)")
    assert await sql.fetchval("SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')") == 2
    await sql.execute("INSERT INTO child VALUES (1, 'x')")
    assert await clears(sql) == 1
    await sql.execute("UPDATE child SET more = 'y'")
    assert await clears(sql) == 1
    await sql.execute("UPDATE extapp SET id = 2")

    assert await clears(sql) == 1


async def test_two_truncates_of_two_transactions_are_two_clears(watched):
    await watched.execute("TRUNCATE extapp")
    await watched.execute("TRUNCATE extapp")

    assert await clears(watched) == 2


# Watch, and watch no more


async def test_a_table_may_be_watched_for_several_instances_and_once_for_each(watched):
    await watched.execute("SELECT configuration_cache_watch('extapp', 'WebClient', 'Mobile')")
    await watched.execute(WATCH)
    await watched.execute("DELETE FROM extapp")
    rows = await watched.fetch("DELETE FROM configuration_cache_outbox RETURNING application, instance")

    assert sorted(map(tuple, rows)) == [("WebClient", "Mobile"), ("WebClient", "Web")]


async def test_watching_again_replaces_what_is_ignored(watched):
    await watched.execute(
        "SELECT configuration_cache_watch('extapp', 'WebClient', 'Web', '{name, name_length}')"
    )
    await watched.execute("UPDATE extapp SET name = 'changed'")
    assert await clears(watched) == 0
    await watched.execute("UPDATE extapp SET updated_at = now() + interval '1 day'")

    assert await clears(watched) == 1


async def test_watching_again_takes_in_a_partition_by_the_trigger_right_beside_readers(sql, database):
    watch = "SELECT configuration_cache_watch('extapp', 'Web\\x41 ''ü'' x', 'Web', '{\"a, ''\\\\ü\", name}')"
    await sql.execute(PARTITIONED)
    await sql.execute("""ALTER TABLE extapp ADD COLUMN "a, '\\ü" int""")
    await sql.execute(watch)
    before = await sql.fetch("SELECT oid FROM pg_trigger ORDER BY oid")
    await sql.execute(
        "CREATE TABLE later PARTITION OF extapp FOR VALUES FROM (30) TO (40);"
        "DROP ROLE IF EXISTS watch_maker; CREATE ROLE watch_maker; GRANT USAGE ON SCHEMA test TO watch_maker;"
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO watch_maker;"
        "GRANT TRIGGER ON ALL TABLES IN SCHEMA test TO watch_maker"
    )
    reader = await asyncpg.connect(database)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute("SELECT FROM extapp")
    await sql.execute("SET ROLE watch_maker; SET lock_timeout = '1s'")

    assert await sql.fetchval(watch) == 6
    assert await sql.fetchval(watch) == 6

    await sql.execute("RESET ROLE; RESET lock_timeout")
    await transaction.rollback()
    await reader.close()
    after = await sql.fetch("SELECT oid FROM pg_trigger ORDER BY oid")
    assert set(before) < set(after)
    assert len(after) == len(before) + 4
    await sql.execute("INSERT INTO later VALUES (33, 'directly')")
    assert await sql.fetchval("SELECT count(*) FROM configuration_cache_outbox") == 1
    await sql.execute("DROP OWNED BY watch_maker; DROP ROLE watch_maker")


async def test_watching_again_mends_a_trigger_that_is_disabled_or_gone(watched):
    await watched.execute("ALTER TABLE extapp DISABLE TRIGGER USER")
    await watched.execute(WATCH)
    await watched.execute("DELETE FROM extapp WHERE id = 1")
    assert await clears(watched) == 1
    name = await watched.fetchval("SELECT tgname FROM pg_trigger WHERE tgname LIKE '%_delete_%'")
    await watched.execute(f"DROP TRIGGER {name} ON extapp")
    await watched.execute(WATCH)
    await watched.execute("DELETE FROM extapp")

    assert await clears(watched) == 1


@pytest.mark.parametrize(
    ("arguments", "others"), [("'extapp'", 0), ("'extapp', 'WebClient', 'Web'", 1)], ids=["all", "one"]
)
async def test_a_table_that_is_watched_no_more_enqueues_nothing(sql, arguments, others):
    await sql.execute(PARTITIONED)
    await sql.execute("SELECT configuration_cache_watch('extapp', 'WebClient', 'Web')")
    await sql.execute("SELECT configuration_cache_watch('extapp', 'WebClient', 'Mobile')")
    assert await sql.fetchval(f"SELECT configuration_cache_unwatch({arguments})") == 5
    assert await sql.fetchval(f"SELECT configuration_cache_unwatch({arguments})") == 0
    await sql.execute("DELETE FROM extapp")

    assert await sql.fetchval("SELECT count(*) FROM configuration_cache_outbox") == others


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("watch('the_view', 'WebClient', 'Web')", "the_view is a view: watch the tables behind it"),
        ("watch('stored_view', 'WebClient', 'Web')", "stored_view is a view"),
        ("watch('far_away', 'WebClient', 'Web')", "far_away is a foreign table"),
        ("watch('near', 'WebClient', 'Web')", "far_part is a foreign table"),
        ("watch('numbers', 'WebClient', 'Web')", "numbers is no table"),
        ("watch('extapp', '', 'Web')", "invalid-application: "),
        ("watch('extapp', 'WebClient', NULL)", "missing-instance: "),
        ("watch(NULL, 'WebClient', 'Web')", "watched must name a table"),
        ("watch('extapp', 'WebClient', 'Web', '{updated}')", "extapp has no column updated to ignore"),
        ("watch('configuration_cache_outbox', 'WebClient', 'Web')", "can't be watched"),
        ("watch('configuration_cache', 'WebClient', 'Web')", "can't be watched"),
        ("unwatch('extapp', 'WebClient')", "must both be given"),
    ],
)
async def test_what_can_not_be_watched_is_refused_with_what_would_be_right(watched, call, words):
    await watched.execute(
        "CREATE VIEW the_view AS SELECT * FROM extapp; CREATE MATERIALIZED VIEW stored_view AS SELECT 1 AS one;"
        "CREATE SEQUENCE numbers; CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER s FOREIGN DATA WRAPPER nothing;"
        "CREATE FOREIGN TABLE far_away (id int) SERVER s;"
        "CREATE TABLE near (id int) PARTITION BY RANGE (id);"
        "CREATE FOREIGN TABLE far_part PARTITION OF near FOR VALUES FROM (0) TO (10) SERVER s"
    )
    with pytest.raises(asyncpg.PostgresError, match=words):
        await watched.execute(f"SELECT configuration_cache_{call}")


async def test_who_may_not_make_triggers_may_not_watch(watched):
    await watched.execute(
        "DROP ROLE IF EXISTS watch_stranger; CREATE ROLE watch_stranger;"
        "GRANT USAGE ON SCHEMA test TO watch_stranger;"
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO watch_stranger; SET ROLE watch_stranger"
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await watched.execute("SELECT configuration_cache_watch('extapp', 'WebClient', 'Mobile')")
    await watched.execute("RESET ROLE; DROP OWNED BY watch_stranger; DROP ROLE watch_stranger")


async def test_the_documented_rights_are_enough_to_watch_a_table_of_ones_own(sql):
    await sql.execute(
        "DROP ROLE IF EXISTS watch_owner; CREATE ROLE watch_owner; GRANT ALL ON SCHEMA test TO watch_owner;"
        "GRANT EXECUTE ON FUNCTION configuration_cache_watch(regclass, text, text, text[]),"
        " configuration_cache_unwatch(regclass, text, text), configuration_cache_watched() TO watch_owner;"
        "SET ROLE watch_owner;"
        "CREATE TABLE extapp (id int); SELECT configuration_cache_watch('extapp', 'WebClient', 'Web');"
        "INSERT INTO extapp VALUES (1);"
        "SELECT configuration_cache_unwatch('extapp'); INSERT INTO extapp VALUES (2); RESET ROLE"
    )

    assert await clears(sql) == 1
    await sql.execute("DROP OWNED BY watch_owner; DROP ROLE watch_owner")


async def test_many_sessions_change_the_table_at_once_and_every_change_is_cleared(watched, database):
    async def change(number):
        connection = await asyncpg.connect(database)
        for _ in range(20):
            async with connection.transaction():
                await connection.execute("INSERT INTO extapp (id, name) VALUES ($1, 'x')", number)
                await connection.execute("DELETE FROM extapp WHERE id = $1", number)
        await connection.close()

    await asyncio.gather(*(change(number) for number in range(1000, 1008)))

    assert await clears(watched) == 8 * 20 * 2
