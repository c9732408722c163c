"""The row of the outbox: relay, broker and database killed while transactions enqueue and change watched tables."""

import asyncio
import contextlib

import asyncpg
import pytest

from configcache import ClearConfigurationCache, outbox
from tests.commands import arrived
from tests.waiting import eventually

WRITERS = 4

# What has been committed is what stands in the tables: also where a writer never heard the answer to its COMMIT. Every
# transaction has a number and a table of its own, whose changes clear an instance of its own.
TABLES = """
DO $$ BEGIN
    FOR n IN 1..{count} LOOP
        EXECUTE format('CREATE TABLE watched_%s (number int)', n);
        PERFORM configuration_cache_watch(format('watched_%s', n)::regclass, 'WebClient', format('Watched %s', n));
    END LOOP;
END $$;
CREATE TABLE committed (number int PRIMARY KEY);
"""
LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def asked_for(number):
    return ClearConfigurationCache.for_associate("WebClient", "Web", number)


def cleared_by_itself(number):
    return ClearConfigurationCache.for_all("WebClient", f"Watched {number}")


class Writers:
    """Transactions that enqueue and change, and then commit, roll back, or lose their connection."""

    def __init__(self, url, count, rng):
        self._url = url
        self._numbers = iter(range(1, count + 1))
        self._rng = rng
        self._allowed = 0
        self._more = asyncio.Event()
        self.done = 0

    def allow(self, number):
        """Let transactions begin up to *number*: else all would be over before the first server is there again."""
        self._allowed = number
        self._more.set()

    async def run(self):
        await asyncio.gather(*(self._write() for _ in range(WRITERS)))

    async def _write(self):
        connection = None
        for number in self._numbers:
            while number > self._allowed:
                self._more.clear()
                await self._more.wait()
            try:
                if connection is None or connection.is_closed():
                    connection = await self._connected()
                await self._transaction(connection, number)
            except LOST:
                if connection is not None:
                    connection.terminate()
                connection = None
            self.done += 1
        if connection is not None:
            connection.terminate()

    async def _connected(self):
        while True:
            with contextlib.suppress(*LOST):
                return await asyncpg.connect(self._url, timeout=5)
            await asyncio.sleep(0.05)

    async def _transaction(self, connection, number):
        await connection.execute("BEGIN")
        await connection.execute(f"INSERT INTO committed VALUES ({number})")
        await outbox.enqueue(connection, asked_for(number))
        await connection.execute(f"INSERT INTO watched_{number} VALUES (1)")
        await connection.execute("ROLLBACK" if self._rng.random() < 0.25 else "COMMIT")


async def caught_up(url, relay):
    """Wait until what is in the outbox now has been relayed, while more may come."""
    connection = await asyncpg.connect(url)
    newest = await connection.fetchval("SELECT max(id) FROM configuration_cache_outbox")

    async def has_caught_up():
        left = "SELECT count(*) FROM configuration_cache_outbox WHERE id <= $1"
        return await connection.fetchval(left, newest or 0) == 0

    try:
        await eventually(has_caught_up, timeout_s=90)
    except TimeoutError:
        pytest.fail(f"the outbox is not emptied; the relay says: {relay.events()[-5:]}")
    finally:
        connection.terminate()


@pytest.mark.in_suite
@pytest.mark.timeout(900)
@pytest.mark.row(29, "relay, broker and database killed 20 times under transactions that enqueue")
async def test_what_was_committed_is_published_and_what_was_rolled_back_is_not(
    system, rabbitmq, postgres, start_worker, scale, rng
):
    kills = scale(
        [rng.choice(["relay", "broker", "database"]) for _ in range(20)],
        in_suite=["relay", "database", "relay"],
    )
    count = scale(2_000, in_suite=120)
    await system.execute(TABLES.format(count=count))
    relay = start_worker(system.settings, verb="relay")
    writers = Writers(system.settings.database.url, count, rng)
    writing = asyncio.create_task(writers.run())

    for number, victim in enumerate(kills, 1):
        writers.allow(number * count // (len(kills) + 1))
        moment = writers.done + rng.randrange(count // (len(kills) + 1))
        await eventually(lambda moment=moment: writers.done >= moment, timeout_s=60)
        if victim == "relay":
            await asyncio.to_thread(relay.kill)
            relay = start_worker(system.settings, verb="relay")
        else:
            server = rabbitmq if victim == "broker" else postgres
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        # RabbitMQ 3.10 can't be killed again before its queue is there again: see RabbitMQ.kill().
        await caught_up(system.settings.database.url, relay)
    writers.allow(count)
    await writing

    connection = await asyncpg.connect(system.settings.database.url)
    committed = {row["number"] for row in await connection.fetch("SELECT number FROM committed")}
    await connection.close()
    await caught_up(system.settings.database.url, relay)
    await eventually(lambda: asyncio.to_thread(relay.is_ready), timeout_s=30)
    assert await asyncio.to_thread(relay.terminate) == 0
    came = await arrived(system.settings.broker.url)

    print(f"{len(committed)} of {count} committed, {len(came)} arrived, {len(kills)} kills")  # noqa: T201 - with -s
    expected = {command(number) for number in committed for command in (asked_for, cleared_by_itself)}
    assert expected - set(came) == set()
    assert set(came) - expected == set()
    assert count / 2 < len(committed) < count
