"""The search finds nothing, finds what was broken, and is about the functions that the database has."""

import itertools
import uuid

import asyncpg
import pytest

from tests import tables
from tests.conftest import available
from tests.freshness.model import Begun, Row, begin, release, search, store
from tests.freshness.mutations import Mutation

KEY = ("WebClient", "Web", 42, "Contact")
LEASES = [uuid.UUID(int=number) for number in range(4)]

SMALL = [
    {"readers": (0, 0, 0), "reads": 1, "clears": 2},
    {"readers": (0, 0), "reads": 2, "clears": 2},
    {"readers": (0, 1), "reads": 1, "clears": 2},
]


def in_words(sizes):
    return f"readers of keys {sizes['readers']}, {sizes['reads']} reads, {sizes['clears']} clears"


@pytest.mark.parametrize("sizes", SMALL, ids=in_words)
def test_in_no_order_of_steps_is_anything_served_that_was_cleared(sizes):
    found = search(**sizes)

    assert found.trace is None, "\n".join(found.trace)
    assert found.states > 10_000


@pytest.mark.parametrize("mutation", Mutation, ids=lambda mutation: mutation.name)
def test_the_search_notices_each_broken_rule(mutation):
    found = search(readers=(0, 0, 0), reads=1, clears=2, mutation=mutation)

    assert found.trace is not None
    assert "version 1 has been cleared" in found.trace


# The three functions of the model do what those of the database do


@pytest.fixture(scope="module")
def migrated(servers):
    with available(), servers.database(tables.migrated) as url:
        yield url


@pytest.fixture
async def sql(migrated):
    connection = await asyncpg.connect(migrated)
    yield connection
    await connection.close()


ROWS = [None] + [
    Row(xml, lease, is_expired)
    for xml, lease, is_expired in itertools.product((None, 7), (None, 1, 2), (False, True))
    if lease is not None or not is_expired
]


async def put(sql, row):
    await sql.execute("DELETE FROM configuration_cache")
    if row is not None:
        xml, lease = row.xml and str(row.xml), None if row.lease is None else LEASES[row.lease]
        await sql.execute(
            "INSERT INTO configuration_cache VALUES ($1, $2, $3, $4, $5, now(), $6, now() + $7::text::interval)",
            *(*KEY, xml, lease),
            None if row.lease is None else "-1 hour" if row.is_expired else "1 hour",
        )


async def got(sql):
    row = await sql.fetchrow(
        "SELECT xml, lease, coalesce(leased_until < now(), false) AS is_expired FROM configuration_cache"
    )
    if row is None:
        return None
    return Row(row["xml"] and int(row["xml"]), row["lease"] and LEASES.index(row["lease"]), row["is_expired"])


@pytest.mark.parametrize("refresh", [False, True])
async def test_begin_of_the_model_is_the_databases(sql, refresh):
    for row in ROWS:
        await put(sql, row)

        xml, lease, _ = await sql.fetchrow(
            "SELECT * FROM configuration_cache_begin($1, $2, $3, $4, refresh => $5, new_lease => $6)",
            *(*KEY, refresh, LEASES[3]),
        )

        answer = Begun(xml and int(xml), lease and LEASES.index(lease))
        assert (await got(sql), answer) == begin(row, 3, refresh=refresh), row


async def test_store_of_the_model_is_the_databases(sql):
    for row in ROWS:
        await put(sql, row)

        answer = await sql.fetchval(
            "SELECT configuration_cache_store($1, $2, $3, $4, $5, $6)", *KEY, LEASES[1], "8"
        )

        assert (await got(sql), answer) == store(row, 1, 8), row


async def test_release_of_the_model_is_the_databases(sql):
    for row in ROWS:
        await put(sql, row)

        answer = await sql.fetchval("SELECT configuration_cache_release($1, $2, $3, $4, $5)", *KEY, LEASES[1])

        assert (await got(sql), answer) == release(row, 1), row
