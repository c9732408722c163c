"""The cached rows, on a real server: what a clear deletes, how it locks, and what its failures are called."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache_worker.core.ports import Chunk, Position, Scope, TableFault
from configcache_worker.postgres import connection as connection_module
from configcache_worker.postgres.cache_table import PostgresCacheTable
from configcache_worker.postgres.catalog import check_layout
from configcache_worker.postgres.connection import ClearConnection, TimeLimits
from configcache_worker.postgres.statements import TableLayout
from tests.proxy import Proxy

CACHE = TableLayout()
PATIENT = TimeLimits(lock_timeout_s=20, statement_timeout_s=20)
INSERT = "INSERT INTO configuration_cache (application, instance, associate_id, item, xml) VALUES ($1, $2, $3, $4, '<x/>')"
ROWS = "SELECT application, instance, associate_id, item FROM configuration_cache ORDER BY 1, 2, 3, 4"
WEB = Scope("WebClient", "Web", None)


def web(associate_id):
    return Scope("WebClient", "Web", associate_id)


@pytest.fixture
def database(migrated):
    """The database of the test has the tables."""
    return migrated


@pytest.fixture
async def sql(database):
    """A connection of the test's own."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def open_table(database, sql):
    """Opens cache tables on that database, and closes them at the end."""
    tables = []

    def opened(*, layout=CACHE, limits=PATIENT, url=database):
        tables.append(PostgresCacheTable(url, layout=layout, limits=limits))
        return tables[-1]

    yield opened
    for table in tables:
        await table.close()


@pytest.fixture
async def table(open_table):
    table = open_table()
    await table.check_layout()
    return table


@contextlib.asynccontextmanager
async def locked(database, query):
    """Somebody else's transaction that has done *query* and not ended."""
    other = await asyncpg.connect(database)
    async with other.transaction():
        await other.execute(query)
        yield other
    await other.close()


async def fill(sql, associates, items=("menu", "page")):
    await sql.executemany(
        INSERT, [("WebClient", "Web", a, i) for a, i in itertools.product(associates, items)]
    )


async def rows(sql):
    return [tuple(row) for row in await sql.fetch(ROWS)]


async def clear_all(table, scopes, limit=5000):
    """The whole pass; returns how many rows each chunk deleted."""
    chunks = [await table.clear(scopes, after=None, limit=limit)]
    while chunks[-1].last is not None:
        chunks.append(await table.clear(scopes, after=chunks[-1].last, limit=limit))
    return [chunk.rows for chunk in chunks]


async def until(condition):
    """Wait for an awaitable condition to hold."""
    async with asyncio.timeout(10):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.005)


def waiting_for_a_lock(sql):
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def check():
        return await sql.fetchval(query) > 0

    return check


# What goes, and what stays

LONG = "ü" * 254
NEIGHBOURS = [
    ("WebClient", "Web", 42, "menu"),
    ("WebClient", "Web", 42, "page"),
    ("WebClient", "Web", 42, ""),
    ("WebClient", "Web", 43, "menu"),
    ("WebClient", "Web", -1, "menu"),
    ("WebClient", "Web", -(2**63), ""),
    ("WebClient", "Web", 2**63 - 1, "x" * 128),
    ("WebClient", "web", 42, "menu"),
    ("WebClient", "Web2", 42, "menu"),
    ("WebClient", "We", 42, "menu"),
    ("webclient", "Web", 42, "menu"),
    ("Web", "WebClient", 42, "menu"),
    ("WebClient", "%", 42, "menu"),
    ("Web%", "Web", 42, "menu"),
    ("Web_lient", "Web", 42, "menu"),
    ("O'Brien", 'a"b', 42, "menu"),
    ("back\\slash", "\\'; --", 42, "menu"),
    ("Größe", "日本語 🚀", 42, "menu"),
    ("Gro\u0308ße", "日本語 🚀", 42, "menu"),
    (LONG, LONG, 42, "menu"),
    (LONG, LONG[:-1], 42, "menu"),
]
SCOPES = [
    *sorted({Scope(application, instance, None) for application, instance, _, _ in NEIGHBOURS}),
    web(42),
    web(2**63 - 1),
    Scope(LONG, LONG, 42),
    Scope("O'Brien", 'a"b', 42),
    Scope("NoSuchClient", "Web", None),
]


def scope_id(scope):
    return f"{scope.application[:9]}-{scope.instance[:9]}{len(scope.instance)}-{scope.associate_id}"


def belongs(row, scope):
    return row[:2] == scope[:2] and scope.associate_id in (None, row[2])


@pytest.mark.parametrize("scope", SCOPES, ids=scope_id)
async def test_a_clear_deletes_exactly_the_rows_of_its_scope(table, sql, scope):
    await sql.executemany(INSERT, NEIGHBOURS)

    chunk = await table.clear([scope], after=None, limit=5000)

    stay = sorted(row for row in NEIGHBOURS if not belongs(row, scope))
    assert await rows(sql) == stay
    assert chunk == Chunk(len(NEIGHBOURS) - len(stay), None)


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 16])
async def test_chunks_of_any_size_delete_the_same_rows(table, sql, limit):
    await sql.executemany(INSERT, NEIGHBOURS)
    await fill(sql, range(100, 110))
    scopes = sorted(
        [WEB, Scope("WebClient", "web", 42), Scope("WebClient", "Web2", 7), Scope(LONG, LONG, 42)]
    )

    deleted = await clear_all(table, scopes, limit)

    assert await rows(sql) == sorted(
        row for row in NEIGHBOURS if not any(belongs(row, scope) for scope in scopes)
    )
    assert set(deleted[:-1]) == {limit}
    assert sum(deleted) == 29


async def test_a_chunk_tells_the_last_key_it_deleted(table, sql):
    await fill(sql, [1, 2, 3])

    first = await table.clear([web(1), web(2), web(3)], after=None, limit=3)
    second = await table.clear([web(1), web(2), web(3)], after=first.last, limit=3)

    assert first == Chunk(3, Position(1, 2, "menu"))
    assert second == Chunk(3, Position(2, 3, "page"))
    assert await table.clear([web(1), web(2), web(3)], after=second.last, limit=3) == Chunk(0, None)


async def test_a_continued_pass_leaves_what_was_added_behind_it(table, sql):
    await fill(sql, [1, 2, 3], ["menu"])
    chunk = await table.clear([WEB], after=None, limit=2)
    await fill(sql, [1, 2], ["menu"])

    assert await table.clear([WEB], after=chunk.last, limit=2) == Chunk(1, None)
    assert await rows(sql) == [("WebClient", "Web", 1, "menu"), ("WebClient", "Web", 2, "menu")]


async def test_a_pass_ends_while_rows_are_being_added(table, sql):
    await fill(sql, range(200))
    added = 0

    async def refill():
        nonlocal added
        for associate in itertools.cycle(range(0, 200, 7)):
            await sql.execute(f"{INSERT} ON CONFLICT DO NOTHING", "WebClient", "Web", associate, "menu")
            added += 1

    refiller = asyncio.create_task(refill())
    chunks = await clear_all(table, [WEB], limit=3)
    refiller.cancel()

    assert sum(chunks) >= 400
    assert added > 0


async def test_rows_still_being_built_are_deleted_too(table, sql):
    await sql.execute(
        "INSERT INTO configuration_cache (application, instance, associate_id, item, lease, leased_until) "
        "VALUES ('WebClient', 'Web', 1, 'menu', gen_random_uuid(), now() + interval '1 hour')"
    )

    assert await table.clear([web(1)], after=None, limit=10) == Chunk(1, None)


async def test_a_row_updated_meanwhile_is_deleted(database, table, sql):
    await fill(sql, [1, 2])

    async with locked(database, "UPDATE configuration_cache SET xml = '<new/>' WHERE associate_id = 2"):
        clearing = asyncio.create_task(table.clear([WEB], after=None, limit=10))
        await until(waiting_for_a_lock(sql))

    assert await clearing == Chunk(4, None)
    assert await rows(sql) == []


async def test_a_row_deleted_meanwhile_is_not_counted(database, table, sql):
    await fill(sql, [1, 2])

    async with locked(database, "DELETE FROM configuration_cache WHERE associate_id = 2"):
        clearing = asyncio.create_task(table.clear([WEB], after=None, limit=10))
        await until(waiting_for_a_lock(sql))

    assert await clearing == Chunk(2, None)


async def test_rows_that_a_trigger_keeps_do_not_hold_up_the_pass(table, sql):
    await fill(sql, [1, 2, 3])
    await sql.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER keep BEFORE DELETE ON configuration_cache FOR EACH ROW WHEN (OLD.associate_id = 2) "
        "EXECUTE FUNCTION keep()"
    )

    assert await clear_all(table, [WEB], limit=2) == [2, 0, 2, 0]
    assert {row[2] for row in await rows(sql)} == {2}


# Locks and plans


async def test_rows_that_a_chunk_does_not_need_are_not_locked(database, table, sql):
    await fill(sql, range(1, 10), ["menu"])

    async with locked(database, "SELECT FROM configuration_cache WHERE associate_id = 4 FOR UPDATE"):
        chunk = await asyncio.wait_for(
            table.clear([web(1), web(2), WEB._replace(instance="Z")], after=None, limit=5), 5
        )
        next_chunk = await asyncio.wait_for(table.clear([WEB], after=None, limit=1), 5)

    assert chunk == Chunk(2, None)
    assert next_chunk == Chunk(1, Position(0, 3, "menu"))


async def test_rows_are_locked_in_key_order(database, table, sql):
    await fill(sql, range(9, 0, -1), ["menu"])
    probe = "SELECT associate_id FROM configuration_cache ORDER BY 1 FOR UPDATE SKIP LOCKED"

    async with locked(database, "SELECT FROM configuration_cache WHERE associate_id = 4 FOR UPDATE"):
        clearing = asyncio.create_task(table.clear([WEB], after=None, limit=100))
        await until(waiting_for_a_lock(sql))
        free = [row["associate_id"] for row in await sql.fetch(probe)]

    assert free == [5, 6, 7, 8, 9]
    await clearing


async def test_overlapping_clears_beside_a_refiller_do_not_deadlock(open_table, sql):
    faults, deleted = [], 0
    ids = range(1, 60)
    end = asyncio.get_running_loop().time() + 3
    await fill(sql, ids)

    async def clear(seed):
        nonlocal deleted
        table, choice = open_table(), random.Random(seed)
        while asyncio.get_running_loop().time() < end:
            scopes = [WEB] if choice.random() < 0.3 else [web(a) for a in sorted(choice.sample(ids, 30))]
            try:
                deleted += sum(await clear_all(table, scopes, limit=choice.choice([7, 40, 5000])))
            except TableFault as fault:
                faults.append(fault)

    async def refill():
        while asyncio.get_running_loop().time() < end:
            await sql.execute(
                "INSERT INTO configuration_cache SELECT 'WebClient', 'Web', a, i FROM generate_series(1, 59) AS a, "
                "unnest('{menu,page}'::text[]) AS i ORDER BY a, i ON CONFLICT (application, instance, associate_id, item) "
                "DO UPDATE SET built_at = now()"
            )

    await asyncio.gather(*(clear(seed) for seed in range(4)), refill())

    assert faults == []
    assert deleted > len(ids)
    assert (
        await sql.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    )


async def plan_of_prepared_clear(connection, scopes):
    """The plan that the worker's own prepared statement runs with, in its own session."""
    query = (
        "SELECT name FROM pg_prepared_statements WHERE statement LIKE 'WITH locked%' AND generic_plans > 0"
    )
    (prepared,) = await connection.fetch(query)
    names = json.dumps([scope.instance for scope in scopes]).translate(str.maketrans("[]", "{}"))
    applications = json.dumps([scope.application for scope in scopes]).translate(str.maketrans("[]", "{}"))
    ids = "{" + ",".join(str(scope.associate_id) for scope in scopes) + "}"
    items = "{" + ",".join('""' for _ in scopes) + "}"
    arguments = f"'{applications}', '{names}', '{ids}', '{ids}', 5000, NULL, '{items}', NULL"
    plan = await connection.fetch(f"EXPLAIN EXECUTE {prepared['name']} ({arguments})")
    return "\n".join(line[0] for line in plan)


async def test_a_statement_prepared_on_an_empty_table_uses_the_index_once_rows_have_come(table, sql):
    # Vacuumed while empty is the worst case: the planner then believes the table has no pages at all.
    await sql.execute("ALTER TABLE configuration_cache SET (autovacuum_enabled = off)")
    await sql.execute("VACUUM ANALYZE configuration_cache")
    for associate in range(1, 11):
        await table.clear([web(associate)], after=None, limit=5000)
    await sql.execute(
        "INSERT INTO configuration_cache SELECT 'WebClient', 'Web', a, 'page' || i "
        "FROM generate_series(1, 20000) AS a, generate_series(1, 10) AS i"
    )
    scopes = [web(associate) for associate in range(1, 1001)]

    plan = await plan_of_prepared_clear(table._connection._connection, scopes)

    scans = [line.strip(" ->") for line in plan.splitlines() if " on configuration_cache" in line]
    kinds = [re.sub(r" on configuration_cache.*| using .*", "", scan) for scan in scans]
    assert sorted(kinds) == ["Delete", "Index Scan", "Tid Scan"]
    assert re.search(
        r"Index Cond: .*application.*instance.*ROW\(associate_id, item\) >= ROW.*associate_id <=", plan
    )
    assert not re.search("Seq Scan|Bitmap|Sort|Hash|Merge|Materialize|Join Filter", plan)


async def test_each_chunk_of_a_large_scope_reads_only_its_own_rows(table, sql):
    await sql.execute("ALTER TABLE configuration_cache SET (autovacuum_enabled = off)")
    await sql.execute(
        "INSERT INTO configuration_cache SELECT 'WebClient', 'Web', a, 'page' || i "
        "FROM generate_series(1, 2000) AS a, generate_series(1, 10) AS i"
    )

    chunks = await clear_all(table, [WEB], limit=1000)
    await table.close()

    assert chunks == [1000] * 20 + [0]
    by_index, by_scan = await rows_read(sql, "configuration_cache", deleted=20_000)
    assert by_index <= 1.1 * 20_000
    assert by_scan == 0


async def test_joined_on_the_key_a_chunk_reads_only_its_own_rows_too(open_table, sql):
    await sql.execute(
        'CREATE TABLE blob (application text COLLATE "C", instance text COLLATE "C", associate_id bigint, '
        "PRIMARY KEY (application, instance, associate_id)) WITH (autovacuum_enabled = off)"
    )
    await sql.execute("VACUUM ANALYZE blob")
    table = open_table(layout=TableLayout(table="blob", item=None))
    for associate in range(1, 11):
        await table.clear([web(associate)], after=None, limit=5000)
    await sql.execute("INSERT INTO blob SELECT 'WebClient', 'Web', a FROM generate_series(1, 20000) AS a")

    chunk = await table.clear([web(associate) for associate in range(1, 1001)], after=None, limit=5000)
    await table.close()

    assert chunk == Chunk(1000, None)
    by_index, by_scan = await rows_read(sql, "blob", deleted=1000)
    assert by_index <= 2.1 * 1000  # twice for each row: to lock it, and to delete it
    assert by_scan == 0


async def rows_read(sql, table, *, deleted):
    """Rows read by index and by scan, once the session that has deleted so many has ended, and told."""
    figures = "SELECT n_tup_del, idx_tup_fetch, seq_tup_read FROM pg_stat_user_tables WHERE relname = $1"

    async def reported():
        await sql.execute("SELECT pg_stat_clear_snapshot()")
        return (await sql.fetchrow(figures, table))["n_tup_del"] == deleted

    await until(reported)
    return (await sql.fetchrow(figures, table))[1:]


# A table of the user's own

OWN = TableLayout('my "Schema"', "Cached Pages", 'App"', "inst", "Associate Id", "Page")
OWN_DDL = '''
CREATE SCHEMA "my ""Schema""";
CREATE TABLE "my ""Schema"""."Cached Pages" (
    id serial PRIMARY KEY, "App""" varchar(254) COLLATE "POSIX" NOT NULL, inst varchar NOT NULL,
    "Associate Id" integer NOT NULL, "Page" varchar(40) NOT NULL, body bytea
);
CREATE INDEX ON "my ""Schema"""."Cached Pages" (inst, "App""", "Associate Id", "Page");
INSERT INTO "my ""Schema"""."Cached Pages" ("App""", inst, "Associate Id", "Page")
SELECT app, inst, associate, page FROM unnest('{WebClient,webclient}'::text[]) AS app, unnest('{Web,web}'::text[]) AS inst,
    unnest('{1,2,-2147483648,2147483647}'::int[]) AS associate, unnest('{menu,page,Page}'::text[]) AS page
'''
COUNT_OWN = '''SELECT count(*) FROM "my ""Schema"""."Cached Pages"'''


@pytest.mark.parametrize("limit", [1, 5, 5000])
async def test_a_table_of_the_users_own_serves_by_mapping(open_table, sql, limit):
    await sql.execute(OWN_DDL)
    table = open_table(layout=OWN)
    await table.check_layout()

    assert sum(await clear_all(table, [web(1), web(2), Scope("webclient", "Web", None)], limit)) == 6 + 12
    assert await sql.fetchval(COUNT_OWN) == 48 - 18


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
async def test_a_chunk_that_ends_among_rows_of_one_key_leaves_none_of_them(open_table, sql, limit):
    await sql.execute(
        "CREATE TABLE pages (id serial PRIMARY KEY, application text, instance text, associate_id bigint NOT NULL, "
        "item text, locale text); ALTER TABLE pages ALTER application SET NOT NULL, ALTER instance SET NOT NULL, "
        "ALTER item SET NOT NULL; CREATE INDEX ON pages (application, instance, associate_id, item); "
        "INSERT INTO pages (application, instance, associate_id, item, locale) SELECT 'WebClient', 'Web', a, 'menu', l "
        "FROM generate_series(1, 4) AS a, unnest('{de,en,no}'::text[]) AS l"
    )
    table = open_table(layout=TableLayout(table="pages"))
    await table.check_layout()

    await clear_all(table, [WEB], limit=limit)

    assert await sql.fetchval("SELECT count(*) FROM pages") == 0


@pytest.mark.parametrize(
    ("indexes", "is_so"),
    [
        ("CREATE UNIQUE INDEX ON t (instance, application, item, associate_id)", True),
        ("CREATE INDEX ON t (application, instance, associate_id, item)", False),
        ("CREATE UNIQUE INDEX ON t (application, instance, associate_id, item, xml)", False),
        (
            "CREATE UNIQUE INDEX ON t (application, instance, associate_id, item); CREATE INDEX ON t (xml)",
            False,
        ),
    ],
)
async def test_a_table_with_no_index_but_its_unique_key_is_known_as_such(database, sql, indexes, is_so):
    await sql.execute(
        "CREATE TABLE t (application text NOT NULL, instance text NOT NULL, associate_id bigint NOT NULL, "
        f"item text NOT NULL, xml text); {indexes}"
    )
    connection = ClearConnection(database, limits=TimeLimits())

    assert await check_layout(connection, TableLayout(table="t")) is is_so
    await connection.close()


async def test_an_id_that_the_users_column_cannot_hold_matches_nothing(open_table, sql):
    await sql.execute(OWN_DDL)
    table = open_table(layout=OWN)

    assert await clear_all(table, [web(2**31), web(2**63 - 1)]) == [0]
    assert await sql.fetchval(COUNT_OWN) == 48


@pytest.mark.parametrize("limit", [1, 2, 3, 5000])
async def test_a_table_without_items_may_hold_many_rows_of_one_associate(open_table, sql, limit):
    await sql.execute(
        "CREATE TABLE blob (application text NOT NULL, instance text NOT NULL, associate_id smallint NOT NULL);"
        "CREATE INDEX ON blob (application, instance, associate_id);"
        "INSERT INTO blob SELECT 'WebClient', 'Web', a FROM generate_series(1, 5) AS a, generate_series(1, 4)"
    )
    table = open_table(layout=TableLayout(table="blob", item=None))
    await table.check_layout()

    assert sum(await clear_all(table, [web(2), web(40_000)], limit)) == 4
    assert sum(await clear_all(table, [WEB], limit)) == 16


async def test_a_partitioned_table_serves(open_table, sql):
    await sql.execute(
        "CREATE TABLE parted (LIKE configuration_cache INCLUDING INDEXES) PARTITION BY HASH (associate_id);"
        "CREATE TABLE parted_0 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "INSERT INTO parted SELECT 'WebClient', 'Web', a, 'menu' FROM generate_series(1, 20) AS a"
    )
    table = open_table(layout=TableLayout(table="parted"))
    await table.check_layout()

    assert await clear_all(table, [web(1), web(2)]) == [2]
    assert await clear_all(table, [WEB], limit=5) == [5, 5, 5, 3]


# Failures


async def fault_of(awaitable):
    with pytest.raises(TableFault) as caught:
        await awaitable
    return caught.value


async def test_the_probe_goes_through_where_clearing_would_and_deletes_nothing(table, sql):
    await fill(sql, [1, 2])
    before = await rows(sql)

    await table.probe()

    assert await rows(sql) == before


async def test_a_row_locked_for_too_long_is_a_fault_that_keeps_the_session(database, open_table, sql):
    await fill(sql, [1])
    table = open_table(limits=TimeLimits(lock_timeout_s=0.05))

    async with locked(database, "SELECT FROM configuration_cache FOR UPDATE"):
        fault = await fault_of(table.clear([WEB], after=None, limit=10))
        session = table._connection._connection

    assert (fault.sqlstate, fault.timed_out, fault.unexpected) == ("55P03", False, False)
    assert await table.clear([WEB], after=None, limit=10) == Chunk(2, None)
    assert table._connection._connection is session


async def test_the_servers_time_limit_is_told_as_ours(database, open_table, sql):
    await fill(sql, [1])
    table = open_table(limits=TimeLimits(lock_timeout_s=20, statement_timeout_s=0.05))

    async with locked(database, "SELECT FROM configuration_cache FOR UPDATE"):
        fault = await fault_of(table.clear([WEB], after=None, limit=10))

    assert (fault.sqlstate, fault.timed_out) == ("57014", True)


async def test_a_session_ended_while_idle_is_replaced_unnoticed(table, sql):
    await fill(sql, [1])
    await table.probe()
    session = table._connection._connection
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'configcache worker' AND datname = current_database()"
    )

    async def ended():
        return session.is_closed()

    await until(ended)

    assert await table.clear([WEB], after=None, limit=10) == Chunk(2, None)


async def test_a_session_ended_in_the_middle_of_a_statement_is_a_fault(database, table, sql):
    await fill(sql, [1])

    async with locked(database, "SELECT FROM configuration_cache FOR UPDATE"):
        clearing = asyncio.create_task(table.clear([WEB], after=None, limit=10))
        await until(waiting_for_a_lock(sql))
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        fault = await fault_of(clearing)

    assert "terminating connection due to administrator command" in str(fault)
    assert not fault.unexpected
    assert not fault.timed_out
    assert await table.clear([WEB], after=None, limit=10) == Chunk(2, None)


async def test_a_demoted_server_is_left_for_the_next_statement_to_find_another(database, table, sql):
    await table.probe()
    name = urlsplit(database).path[1:]
    await sql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await table._connection._connection.execute("SET default_transaction_read_only = on")

    assert (await fault_of(table.probe())).sqlstate == "25006"

    await sql.execute("SET default_transaction_read_only = off")
    await sql.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    await table.probe()


async def test_a_table_that_is_not_there_is_a_fault_that_ends_with_it(database, table, sql):
    await sql.execute("ALTER TABLE configuration_cache RENAME TO elsewhere")
    assert (await fault_of(table.probe())).sqlstate == "42P01"
    assert (await fault_of(table.clear([WEB], after=None, limit=1))).sqlstate == "42P01"

    await sql.execute("ALTER TABLE elsewhere RENAME TO configuration_cache")
    await table.probe()


async def test_a_table_made_anew_under_a_prepared_statement_still_serves(table, sql):
    await fill(sql, [1])
    await table.clear([WEB], after=None, limit=10)
    await sql.execute("ALTER TABLE configuration_cache ALTER COLUMN associate_id TYPE integer")
    await fill(sql, [1])

    with contextlib.suppress(TableFault):
        await table.clear([WEB], after=None, limit=10)
    await table.clear([WEB], after=None, limit=10)

    assert await rows(sql) == []


async def test_a_failure_at_commit_is_never_taken_for_success(table, sql):
    await fill(sql, [1])
    await sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today' USING DETAIL = 'secret'; END $$;"
        "CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON configuration_cache DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()"
    )

    fault = await fault_of(table.clear([WEB], after=None, limit=10))

    assert (str(fault), fault.sqlstate) == ("not today (SQLSTATE P0001)", "P0001")
    assert len(await rows(sql)) == 2


async def test_cancelling_a_clear_is_prompt_and_leaves_no_session_half_used(database, table, sql):
    await fill(sql, [1])

    async with locked(database, "SELECT FROM configuration_cache FOR UPDATE"):
        clearing = asyncio.create_task(table.clear([WEB], after=None, limit=10))
        await until(waiting_for_a_lock(sql))
        clearing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(clearing, 1)

    assert sum(await clear_all(table, [WEB])) in {0, 2}  # the server may have finished what we gave up
    assert await rows(sql) == []


async def test_a_fault_of_this_program_is_told_apart(table):
    fault = await fault_of(table.clear([Scope("WebClient", "Web", "42")], after=None, limit=10))

    assert fault.unexpected
    assert fault.sqlstate is None


async def test_a_server_that_does_not_answer_is_left_after_our_own_time_limit(
    database, open_table, sql, monkeypatch
):
    monkeypatch.setattr(connection_module, "_GRACE_S", 0.05)
    async with Proxy(database) as line:
        table = open_table(url=line.url, limits=TimeLimits(statement_timeout_s=0.05))
        await table.probe()
        line.freeze()

        fault = await fault_of(table.probe())

        line.thaw()
        assert (fault.sqlstate, fault.timed_out, str(fault)) == (
            None,
            True,
            "no answer from the database in 0.1 s",
        )
        await table.probe()
        await table.close()


async def test_a_server_that_accepts_and_says_nothing_is_no_time_limit_of_a_statement(database, open_table):
    async with Proxy(database) as line:
        line.freeze()
        table = open_table(url=line.url, limits=TimeLimits(connect_timeout_s=0.1))

        fault = await fault_of(table.probe())

    assert (fault.sqlstate, fault.timed_out, fault.unexpected) == (None, False, False)
    assert "within 0.1 s" in str(fault)


async def test_of_several_hosts_the_first_that_serves_is_used(database, open_table, sql):
    async with Proxy(database) as line:
        line.freeze()
        silent, serving = urlsplit(line.url).netloc, urlsplit(database).netloc.rpartition("@")[2]
        hosts = f"{silent.replace('@', '@127.0.0.1:1,')},{serving}"
        url = urlsplit(database)._replace(netloc=hosts, query="target_session_attrs=read-write").geturl()
        table = open_table(url=url, limits=TimeLimits(connect_timeout_s=0.2))
        await fill(sql, [1])

        await clear_all(table, [web(1)])

    assert not await rows(sql)


async def test_the_texts_of_failures_hold_no_password(open_table):
    table = open_table(url="postgresql://me:s3cret@127.0.0.1:1,localhost:1/db")

    fault = await fault_of(table.probe())

    assert (fault.sqlstate, fault.timed_out, fault.unexpected) == (None, False, False)
    assert str(fault).startswith("no connection to PostgreSQL at 127.0.0.1:1: ")
    assert "; no connection to PostgreSQL at localhost:1: " in str(fault)
    assert "s3cret" not in str(fault) + repr(table) + repr(fault.__cause__)


async def test_a_refused_connection_is_never_a_commands_fault_but_tells_its_sqlstate(database, open_table):
    table = open_table(url=urlsplit(database)._replace(path="/no_such_database").geturl())

    fault = await fault_of(table.probe())

    assert fault.sqlstate is None
    assert "3D000" in str(fault)


async def test_a_piece_of_a_password_with_a_slash_in_it_is_not_taken_for_the_address(open_table):
    table = open_table(url="postgresql://me:s3c/ret@127.0.0.1:1/db")

    fault = await fault_of(table.probe())

    assert "s3c" not in str(fault) + repr(table)


async def test_closing_twice_is_safe_and_the_next_statement_connects_anew(table, sql):
    await fill(sql, [1])
    await table.probe()
    await table.close()
    await table.close()

    await clear_all(table, [web(1)])

    assert not await rows(sql)
