"""Reading through the cache, on a real server: one builder for each key, and nothing served that was cleared."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time

import asyncpg
import pytest
from pydantic import ValidationError

from configcache.cache import ConfigurationCache, PsycopgDatabase, StillBuilding
from configcache.retry import RetryPolicy
from configcache.switch import CacheOverride, CacheSwitch
from configcache_worker.postgres.migrations import migrate
from tests import tables
from tests.conftest import available
from tests.waiting import eventually

KEY = ("WebClient", "Web", 42, "Contact")
QUICK = RetryPolicy(first_s=0.001, longest_s=0.02)


class Builder:
    """Builds ``<1/>``, ``<2/>`` and so on, once it is let; fails while told to."""

    def __init__(self):
        self.begun, self.fails = 0, None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        self.begun += 1
        number = self.begun
        await self.gate.wait()
        if self.fails:
            raise self.fails
        return f"<{number}/>"


@pytest.fixture(scope="module")
def migrated(servers):
    """One database for all tests of the module; each finds the table empty."""
    with available(), servers.database(tables.migrated) as url:
        yield url


@pytest.fixture
async def pool(migrated):
    async with asyncpg.create_pool(migrated, min_size=1, max_size=4) as pool:
        await clear(pool)
        yield pool


@pytest.fixture
def cache(pool):
    return ConfigurationCache(pool, poll=QUICK)


@pytest.fixture
def build():
    return Builder()


async def rows(pool):
    return [tuple(row) for row in await pool.fetch("SELECT xml, lease IS NULL FROM configuration_cache")]


async def clear(pool):
    await pool.execute("DELETE FROM configuration_cache")


async def expire(pool):
    await pool.execute(
        "UPDATE configuration_cache SET leased_until = clock_timestamp() - interval '1 second'"
    )


@contextlib.asynccontextmanager
async def building(cache, build, read=None):
    """A build that has begun and ends with the block, if it is not made to end before."""
    build.gate.clear()
    before = build.begun
    task = asyncio.create_task((read or cache.get_or_build)(*KEY, build))
    await eventually(lambda: build.begun > before)
    yield task
    build.gate.set()
    await asyncio.wait({task})


async def test_what_is_missing_is_built_once_and_then_cached(cache, pool, build):
    assert await cache.get_or_build(*KEY, build) == "<1/>"
    assert await cache.get_or_build(*KEY, build) == "<1/>"

    assert build.begun == 1
    assert await rows(pool) == [("<1/>", True)]


async def test_keys_that_differ_in_anything_are_built_each(cache, pool, build):
    keys = [
        KEY,
        ("Mobile", *KEY[1:]),
        ("WebClient", "web", *KEY[2:]),
        (*KEY[:2], 43, "Contact"),
        (*KEY[:3], ""),
    ]

    built = [await cache.get_or_build(*key, build) for key in keys]

    assert built == ["<1/>", "<2/>", "<3/>", "<4/>", "<5/>"]
    assert len(await rows(pool)) == 5


async def test_of_many_who_miss_together_one_builds_and_the_others_hold_no_connection(cache, pool, build):
    async with building(cache, build):
        waiting = [asyncio.create_task(cache.get_or_build(*KEY, build)) for _ in range(50)]
        # Four connections serve everybody, the waiting ones included.
        assert await asyncio.wait_for(pool.fetchval("SELECT 1"), 5) == 1
        build.gate.set()
        assert set(await asyncio.gather(*waiting)) == {"<1/>"}

    assert build.begun == 1


async def test_what_was_cleared_while_it_was_built_is_served_to_its_own_caller_alone(cache, pool, build):
    async with building(cache, build) as first:
        waiting = [asyncio.create_task(cache.get_or_build(*KEY, build)) for _ in range(10)]
        await clear(pool)
        build.gate.set()
        assert await first == "<1/>"
        assert set(await asyncio.gather(*waiting)) == {"<2/>"}

    assert build.begun == 2
    assert await rows(pool) == [("<2/>", True)]


async def test_a_build_that_fails_frees_its_key_for_the_next(cache, pool, build):
    build.fails = ZeroDivisionError("no such page")
    with pytest.raises(ZeroDivisionError, match="no such page"):
        await cache.get_or_build(*KEY, build)
    assert await rows(pool) == []
    build.fails = None

    assert await asyncio.wait_for(cache.get_or_build(*KEY, build), 5) == "<2/>"


async def test_of_those_who_wait_for_a_build_that_fails_one_builds_anew(cache, build):
    async with building(cache, build) as first:
        waiting = [asyncio.create_task(cache.get_or_build(*KEY, build)) for _ in range(10)]
        build.fails = ZeroDivisionError()
        build.gate.set()
        with pytest.raises(ZeroDivisionError):
            await first
        build.fails = None
        done = await asyncio.gather(*waiting, return_exceptions=True)

    assert [xml for xml in done if isinstance(xml, str)]
    assert len({xml for xml in done if isinstance(xml, str)}) == 1


async def test_a_cancelled_build_frees_its_key_for_the_next(cache, pool, build):
    async with building(cache, build) as first:
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

        assert await rows(pool) == []


async def test_who_is_cancelled_while_beginning_leaves_no_lease_behind(cache, pool, build):
    for delay in range(40):
        reading = asyncio.create_task(cache.get_or_build(*KEY, build))
        for _ in range(delay):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

        assert all(is_free for _, is_free in await rows(pool))
        await clear(pool)


class Breaking:
    """A database that answers its first statement with an error, after it was obeyed or instead."""

    def __init__(self, pool, error, *, obeyed):
        self.pool, self.error, self.obeyed = pool, error, obeyed

    async def fetchrow(self, statement, *arguments):
        error, self.error = self.error, None
        if error is None or self.obeyed:
            row = await self.pool.fetchrow(statement, *arguments)
        if error is not None:
            raise error
        return row


async def test_a_connection_lost_after_a_lease_was_taken_leaves_no_lease_behind(pool, build):
    lost = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await ConfigurationCache(Breaking(pool, lost, obeyed=True)).get_or_build(*KEY, build)

    assert await rows(pool) == []
    assert build.begun == 0


async def test_who_is_refused_for_a_row_written_at_the_same_moment_asks_again(pool, build):
    refused = asyncpg.SerializationError("could not serialize access due to concurrent update")
    cache = ConfigurationCache(Breaking(pool, refused, obeyed=False), poll=QUICK)

    assert await cache.get_or_build(*KEY, build) == "<1/>"
    assert await rows(pool) == [("<1/>", True)]


async def test_under_repeatable_read_of_many_who_miss_together_one_builds(migrated, pool, build):
    stricter = {"default_transaction_isolation": "repeatable read"}
    async with asyncpg.create_pool(migrated, min_size=8, max_size=8, server_settings=stricter) as strict:
        cache = ConfigurationCache(strict, poll=QUICK)
        for number in range(1, 21):
            key = (*KEY[:2], number, "Contact")
            built = await asyncio.gather(*(cache.get_or_build(*key, build) for _ in range(8)))
            assert set(built) == {f"<{number}/>"}


async def test_a_builder_that_died_is_replaced_when_its_lease_has_expired(cache, pool, build):
    await pool.fetchrow("SELECT * FROM configuration_cache_begin($1, $2, $3, $4)", *KEY)
    waiting = asyncio.create_task(cache.get_or_build(*KEY, build))
    await asyncio.wait({waiting}, timeout=0.1)
    assert not waiting.done()

    await expire(pool)

    assert await asyncio.wait_for(waiting, 5) == "<1/>"
    assert await rows(pool) == [("<1/>", True)]


async def test_a_builder_that_was_replaced_stores_nothing(cache, pool, build):
    async with building(cache, build) as slow:
        await expire(pool)
        quick = asyncio.create_task(cache.get_or_build(*KEY, Builder()))
        assert await quick == "<1/>"
        build.begun = 7
        build.gate.set()
        assert await slow == "<1/>"

    assert await rows(pool) == [("<1/>", True)]


async def test_a_lease_too_short_for_the_build_is_told_if_it_was_lost(pool, build, caplog):
    cache = ConfigurationCache(pool, lease_s=0.05, poll=QUICK)
    async with building(cache, build) as slow:
        began_s = time.monotonic()
        quick = Builder()
        assert await cache.get_or_build(*KEY, quick) == "<1/>"
        assert "lease_s" not in caplog.text
        # By the server's clock it has taken longer; by its own, which may have begun later, it shall, too.
        await eventually(lambda: time.monotonic() - began_s > 0.05)
        build.gate.set()
        await slow

    assert "lease_s must be longer than the longest build" in caplog.text


async def test_a_build_that_was_cleared_in_time_is_no_reason_for_a_warning(cache, pool, build, caplog):
    async with building(cache, build):
        await clear(pool)

    assert caplog.text == ""


async def test_waiting_ends_with_an_error_that_names_the_key(pool, build):
    cache = ConfigurationCache(pool, wait_s=0.05, poll=QUICK)
    async with building(cache, build):
        with pytest.raises(StillBuilding, match=r"'WebClient'.*'Contact'.* after 0\.05 s"):
            await cache.get_or_build(*KEY, build)

        assert build.begun == 1


async def test_a_refresh_builds_anew_while_others_are_served_what_was_cached(cache, build):
    await cache.get_or_build(*KEY, build)

    async with building(cache, build, cache.refresh) as refreshing:
        assert await cache.get_or_build(*KEY, build) == "<1/>"
        build.gate.set()
        assert await refreshing == "<2/>"

    assert await cache.get_or_build(*KEY, build) == "<2/>"


async def test_a_refresh_does_not_wait_for_a_build_whose_configuration_may_be_older(cache, build):
    async with building(cache, build) as older:
        refreshing = asyncio.create_task(cache.refresh(*KEY, build))
        await eventually(lambda: build.begun == 2)
        build.gate.set()
        assert (await older, await refreshing) == ("<1/>", "<2/>")

    assert await cache.get_or_build(*KEY, build) == "<2/>"


async def test_a_refresh_that_fails_leaves_what_was_cached(cache, build):
    await cache.get_or_build(*KEY, build)
    build.fails = ZeroDivisionError()

    with pytest.raises(ZeroDivisionError):
        await cache.refresh(*KEY, build)

    assert await cache.get_or_build(*KEY, build) == "<1/>"


async def test_a_clear_during_a_refresh_wins(cache, pool, build):
    await cache.get_or_build(*KEY, build)

    async with building(cache, build, cache.refresh) as refreshing:
        await clear(pool)
        build.gate.set()
        assert await refreshing == "<2/>"

    assert await rows(pool) == []


async def test_what_was_built_is_returned_even_if_it_cannot_be_stored(cache, pool, build, caplog):
    async with building(cache, build) as reading:
        await pool.execute("ALTER TABLE configuration_cache RENAME TO away")
        build.gate.set()
        assert await reading == "<1/>"
        await pool.execute("ALTER TABLE away RENAME TO configuration_cache")

    assert "was built and could not be stored" in caplog.text
    assert logging.getLogger("configcache.cache").name in {record.name for record in caplog.records}


async def test_without_the_functions_the_drivers_error_is_the_callers(database, build):
    async with asyncpg.create_pool(database, min_size=1) as pool:
        with pytest.raises(asyncpg.UndefinedFunctionError, match="configuration_cache_begin"):
            await ConfigurationCache(pool).get_or_build(*KEY, build)

    assert build.begun == 0


@pytest.mark.parametrize(
    "key",
    [("", *KEY[1:]), ("WebClient", " Web", *KEY[2:]), (*KEY[:2], 0, "Contact"), (*KEY[:2], 2**63, "Contact")],
    ids=repr,
)
async def test_a_key_that_no_command_could_clear_is_refused_before_anything_is_built(cache, build, key):
    with pytest.raises(ValidationError):
        await cache.get_or_build(*key, build)

    assert build.begun == 0


async def test_an_item_that_does_not_fit_the_table_is_refused_before_anything_is_built(cache, build):
    with pytest.raises(ValueError, match="at most 128 characters long, not 129"):
        await cache.get_or_build(*KEY[:3], "x" * 129, build)

    assert build.begun == 0


async def test_a_connection_in_a_transaction_is_refused(pool, build):
    async with pool.acquire() as connection, connection.transaction():
        with pytest.raises(ValueError, match="the connection is in a transaction"):
            await ConfigurationCache(connection).get_or_build(*KEY, build)


async def test_what_is_built_must_be_text(cache, pool):
    async def build():
        return b"<bytes/>"

    with pytest.raises(TypeError, match="build must give a str, not bytes"):
        await cache.get_or_build(*KEY, build)

    assert await rows(pool) == []


@pytest.mark.parametrize(
    "wrong", [{"lease_s": 0}, {"wait_s": -1}, {"statement_timeout_s": 0}, {"schema": ""}], ids=str
)
async def test_settings_that_make_no_sense_are_refused(pool, wrong):
    with pytest.raises(ValueError, match="must"):
        ConfigurationCache(pool, **wrong)


async def test_another_schema_may_have_the_table(database, build):
    await migrate(database, schema='my "own"')
    async with asyncpg.create_pool(database, min_size=1) as pool:
        await ConfigurationCache(pool, schema='my "own"').get_or_build(*KEY, build)

        assert await pool.fetchval('SELECT xml FROM "my ""own""".configuration_cache') == "<1/>"


# The switch


async def test_switched_off_every_read_builds_and_nothing_is_stored(pool, build):
    cache = ConfigurationCache(pool, switch=CacheSwitch(enabled=False))

    assert await cache.get_or_build(*KEY, build) == "<1/>"
    assert await cache.refresh(*KEY, build) == "<2/>"

    assert await rows(pool) == []


async def test_switched_off_what_is_cached_is_not_read_but_still_cleared(new_system, build):
    async with new_system(cache={"enabled": False}) as system:
        await system.fill([KEY])
        async with asyncpg.create_pool(system.settings.database.url, min_size=1) as pool:
            switch = CacheSwitch(enabled=system.settings.cache.enabled)
            assert await ConfigurationCache(pool, switch=switch).get_or_build(*KEY, build) == "<1/>"

            await system.publish_raw(b'{"Application":"WebClient","Instance":"Web","AssociateId":42}')
            await system.settled()

            assert await rows(pool) == []


async def test_overrides_hold_for_an_application_or_an_instance_of_it(pool, build):
    switch = CacheSwitch(
        overrides=(
            CacheOverride(application="WebClient", enabled=False),
            CacheOverride(application="WebClient", instance="Web", enabled=True),
        )
    )
    cache = ConfigurationCache(pool, switch=switch)

    for instance, application in itertools.product(("Web", "Other"), ("WebClient", "Mobile")):
        await cache.get_or_build(application, instance, 1, "page", build)

    stored = await pool.fetch("SELECT application, instance FROM configuration_cache ORDER BY 1, 2")
    assert [tuple(row) for row in stored] == [("Mobile", "Other"), ("Mobile", "Web"), ("WebClient", "Web")]


# psycopg's way of writing parameters, over a pool that behaves as psycopg's does


class StandInPool:
    """Takes statements as psycopg does, in transactions that commit at the end of the block."""

    def __init__(self, pool):
        self._pool = pool

    @contextlib.asynccontextmanager
    async def connection(self):
        async with self._pool.acquire() as connection, connection.transaction():
            yield StandInConnection(connection)


class StandInConnection:
    def __init__(self, connection):
        self._connection = connection

    async def execute(self, query, params):
        numbers = itertools.count(1)
        parts = query.split("%s")
        positional = parts[0] + "".join(f"${next(numbers)}{part}" for part in parts[1:])
        assert len(parts) == len(params) + 1
        return StandInCursor(await self._connection.fetchrow(positional.replace("%%", "%"), *params))


class StandInCursor:
    kind = tuple

    def __init__(self, row):
        self._row = row

    async def fetchone(self):
        return self.kind(self._row)


@pytest.mark.parametrize("kind", [tuple, dict])
async def test_psycopgs_pool_serves_as_well(migrated, pool, build, kind, monkeypatch):
    monkeypatch.setattr(StandInCursor, "kind", kind)
    await migrate(migrated, schema="100%")
    await pool.execute('TRUNCATE "100%".configuration_cache')
    cache = ConfigurationCache(PsycopgDatabase(StandInPool(pool)), schema="100%", poll=QUICK)

    built = await asyncio.gather(*(cache.get_or_build(*KEY, build) for _ in range(10)))

    assert set(built) == {"<1/>"}
    assert await pool.fetchval('SELECT xml FROM "100%".configuration_cache') == "<1/>"
