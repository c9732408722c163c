"""Whether a table fits, told by a real server's catalog."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache_worker.postgres.cache_table import PostgresCacheTable
from configcache_worker.postgres.catalog import LayoutError, RightsMissing, TableMissing
from configcache_worker.postgres.connection import TimeLimits
from configcache_worker.postgres.migrations import migrate
from configcache_worker.postgres.statements import TableLayout

PAGES = TableLayout("own", "Pages", "app", "inst", "who", "page")
GOOD = (
    'CREATE TABLE own."Pages" (app text NOT NULL, inst text NOT NULL, who bigint NOT NULL, page text NOT NULL);'
    'CREATE INDEX good ON own."Pages" (inst, app, who)'
)


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    await connection.execute("CREATE SCHEMA own")
    yield connection
    await connection.close()


@pytest.fixture
async def check(database):
    """Checks a layout against the database."""

    async def check(layout=PAGES, url=database):
        table = PostgresCacheTable(url, layout=layout, limits=TimeLimits())
        try:
            await table.check_layout()
        finally:
            await table.close()

    return check


async def problems_of(check, layout=PAGES):
    with pytest.raises(LayoutError) as caught:
        await check(layout)
    return caught.value.problems


async def test_the_migrated_table_fits(check, database, sql):
    await migrate(database)

    await check(TableLayout())


async def test_a_table_of_the_users_own_may_fit(check, sql):
    await sql.execute(GOOD)

    await check()


@pytest.mark.parametrize("layout", [TableLayout(), TableLayout(schema="no_such_schema"), PAGES])
async def test_a_missing_table_may_still_come(check, layout):
    with pytest.raises(TableMissing, match="there is no table "):
        await check(layout)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            'ALTER TABLE own."Pages" RENAME who TO "Who"',
            'It has no column "who"; its columns are "app", "inst", "Who"',
        ),
        (
            'ALTER TABLE own."Pages" ALTER app TYPE char(20)',
            'Column "app" is of type character, not text or character',
        ),
        (
            'ALTER TABLE own."Pages" ALTER who TYPE numeric',
            'Column "who" is of type numeric, not smallint, integer or',
        ),
        (
            'ALTER TABLE own."Pages" ALTER page DROP NOT NULL',
            'ALTER TABLE "own"."Pages" ALTER COLUMN "page" SET NOT NULL.',
        ),
        ("DROP INDEX own.good", 'CREATE INDEX CONCURRENTLY ON "own"."Pages" ("app", "inst", "who", "page").'),
        ('DROP INDEX own.good; CREATE INDEX ON own."Pages" (app, who, inst)', "No index leads with"),
        ('DROP INDEX own.good; CREATE INDEX ON own."Pages" (app, inst) WHERE who > 0', "No index leads with"),
        ('DROP INDEX own.good; CREATE INDEX ON own."Pages" (lower(app), inst)', "No index leads with"),
        ('DROP INDEX own.good; CREATE INDEX ON own."Pages" (app COLLATE "C", inst)', "No index leads with"),
        ('DROP INDEX own.good; CREATE INDEX ON own."Pages" USING brin (app, inst)', "No index leads with"),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'own.good'::regclass",
            "No index leads with",
        ),
    ],
)
async def test_what_does_not_fit_is_named_with_its_remedy(check, sql, change, problem):
    await sql.execute(GOOD)
    await sql.execute(change)

    (found,) = await problems_of(check)

    assert problem in found


async def test_a_collation_that_takes_different_names_for_equal_is_refused(check, sql):
    try:
        await sql.execute(
            "CREATE COLLATION own.ignoring_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this server was built without ICU, the only provider of such collations")
    await sql.execute(GOOD)
    await sql.execute('ALTER TABLE own."Pages" ALTER inst TYPE text COLLATE own.ignoring_case')

    (problem,) = await problems_of(check)

    assert problem == (
        'Column "inst" takes different names for equal: '
        'ALTER TABLE "own"."Pages" ALTER COLUMN "inst" TYPE text COLLATE "C".'
    )


async def test_all_problems_are_told_at_once(check, sql):
    await sql.execute('CREATE TABLE own."Pages" (app text, inst xml, who text, page varchar(9) NOT NULL)')

    problems = await problems_of(check)

    assert len(problems) == 6


async def test_a_domain_counts_as_what_it_is_based_on(check, sql):
    await sql.execute("CREATE DOMAIN own.name AS varchar(254)")
    await sql.execute(GOOD)
    await sql.execute('ALTER TABLE own."Pages" ALTER app TYPE own.name')

    await check()


async def test_a_view_is_refused(check, sql):
    await sql.execute("CREATE VIEW own.\"Pages\" AS SELECT 'a' AS app, 'i' AS inst, 1 AS who, 'p' AS page")

    assert await problems_of(check) == ("It is a view; name the table whose rows are to be deleted.",)


async def test_missing_rights_may_still_come_and_the_least_are_enough(check, database, sql):
    name = urlsplit(database).path[1:].replace("test", "role")
    await sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'pw'")
    try:
        await sql.execute(GOOD)
        await sql.execute(f"GRANT USAGE ON SCHEMA own TO {name}")
        at_server = urlsplit(database).netloc.rpartition("@")[2]
        url = urlsplit(database)._replace(netloc=f"{name}:pw@{at_server}").geturl()

        with pytest.raises(RightsMissing, match="GRANT SELECT, UPDATE, DELETE ON "):
            await check(url=url)

        key = "(app, inst, who, page)"
        await sql.execute(f'GRANT SELECT {key}, UPDATE {key}, DELETE ON own."Pages" TO {name}')
        with pytest.raises(RightsMissing, match="GRANT SELECT, UPDATE, DELETE ON "):
            await check(url=url)
        await sql.execute(f'GRANT SELECT (ctid, tableoid) ON own."Pages" TO {name}')
        await check(url=url)
        table = PostgresCacheTable(url, layout=PAGES, limits=TimeLimits())
        await table.probe()
        await table.clear([], after=None, limit=1)
        await table.close()
    finally:
        await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
