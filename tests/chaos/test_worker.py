"""Rows of the worker itself: killed, stopped, early, asleep, dying."""

import asyncio
import contextlib
import itertools
import json
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from configcache.topology import COMMAND_QUEUE
from configcache_worker.local.postgres import PostgreSQL
from configcache_worker.local.rabbitmq import RabbitMQ
from configcache_worker.postgres.migrations import migrate
from configcache_worker.rabbitmq.deliveries import Deliveries
from configcache_worker.settings import BrokerSettings, DatabaseSettings, Settings
from tests.chaos.load import Load, ready
from tests.chaos.sabotage import PARTS
from tests.conftest import available
from tests.proxy import Proxy
from tests.waiting import eventually

HERE = Path(__file__).parent
SLOW = {"CONFIGCACHE_WORKER__BATCH": "5", "CONFIGCACHE_WORKER__PREFETCH": "100"}


@pytest.mark.in_suite
@pytest.mark.timeout(180)
@pytest.mark.row(1, "worker SIGKILLed at random moments under load, 25 times")
async def test_a_worker_killed_at_any_moment_loses_nothing(load, system, start_worker, scale, rng):
    numbers = range(1, scale(80_001, in_suite=2_001))
    await load.fill(numbers)
    found_working = 0

    async with load.flowing(numbers, poison_every=20):
        for number in range(scale(25, in_suite=2)):
            worker = start_worker(system.settings, **SLOW)
            if number % 2:  # at work, however long its start takes; the others at any moment of that
                await load.progress()
            await asyncio.sleep(rng.uniform(0.0, 1.5))
            worker.kill()
            found_working += bool(worker.events("batch.cleared"))

    assert found_working
    await load.accounts_balance(start_worker(system.settings))


@pytest.mark.in_suite
@pytest.mark.timeout(120)
@pytest.mark.row(2, "SIGTERM under load: ends with 0 in time, and nothing that was committed comes again")
async def test_a_worker_told_to_stop_leaves_exactly_what_it_did_not_do(load, system, start_worker, scale):
    stops = scale(5, in_suite=1)
    numbers = range(1, scale(6_000 * stops, in_suite=2_500) + 1)
    await load.fill(numbers)
    await load.publish(numbers)

    for _ in range(stops):
        worker = start_worker(system.settings, **SLOW)
        await load.progress()
        started_s = time.monotonic()
        assert await asyncio.to_thread(worker.terminate) == 0
        assert time.monotonic() - started_s < system.settings.worker.drain_timeout_s
        left = await load.left()
        assert await waiting_numbers(system.settings.broker.url, expected=left) == left
    assert left
    await load.accounts_balance(start_worker(system.settings))


async def waiting_numbers(url, *, expected):
    """Numbers of the commands in the queue, by looking at every message: the *expected* ones, and what else comes."""
    seen, came = set(), asyncio.Event()

    def receive(_, deliveries):
        for delivery in deliveries:
            seen.add(json.loads(delivery.body)["AssociateId"])
        came.set()

    looking = Deliveries(
        url=url, queue=COMMAND_QUEUE, prefetch=65_535, connect_timeout_s=10, heartbeat_s=10, receive=receive
    )
    session = await looking.open()
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(1.0 if seen >= expected else 30.0):
                await came.wait()
            came.clear()
    await session.close()
    return seen


@pytest.mark.in_suite
@pytest.mark.timeout(120)
@pytest.mark.row(22, "worker started before broker, database and schema exist")
async def test_a_worker_started_before_everything_works_when_it_is_there(start_worker):
    with closing(RabbitMQ()) as rabbitmq, closing(PostgreSQL()) as postgres, available():
        await asyncio.gather(asyncio.to_thread(rabbitmq.prepare), asyncio.to_thread(postgres.prepare))
        settings = Settings(
            broker=BrokerSettings(url=rabbitmq.url), database=DatabaseSettings(url=postgres.url)
        )
        load = Load(settings)

        worker = start_worker(settings)
        await eventually(lambda: asyncio.to_thread(lambda: (worker.readiness() or {}).get("reasons")))
        await eventually(lambda: worker.events("database.paused"))
        await asyncio.to_thread(postgres.start)
        await eventually(lambda: any("42P01" in event["error"] for event in worker.events("database.paused")))
        await migrate(settings.database.url, schema="public")
        await eventually(lambda: worker.events("session.failed"))
        await asyncio.to_thread(rabbitmq.start)
        await ready(worker)

        await load.fill(range(1, 501))
        await load.publish(range(1, 501), poison_every=50)
        await load.accounts_balance(worker)


@pytest.mark.timeout(120)
@pytest.mark.row(24, "clock jumps: a day on, two days back; an hour asleep")
async def test_a_worker_does_not_mind_what_the_clock_says(load, system, start_worker, rng):
    numbers = range(1, 20_001)
    await load.fill(numbers)
    worker = start_worker(system.settings, program=[str(HERE / "jumping_clock.py")])
    await ready(worker)

    async with load.flowing(numbers, poison_every=100):
        for number in (signal.SIGUSR1, signal.SIGUSR2) * 4:
            await load.progress()
            worker.signal(number)
            # A pause has begun before the clock jumps: its end is an appointment with the old time.
            await system.execute("ALTER TABLE configuration_cache RENAME TO away")
            before = len(worker.events("database.paused"))
            await eventually(lambda before=before: len(worker.events("database.paused")) > before)
            worker.signal(number)
            await system.execute("ALTER TABLE away RENAME TO configuration_cache")

    await load.accounts_balance(worker)


@pytest.mark.in_suite
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.row(27, "a part of the worker dies: the process ends with a reason, and the next goes on")
async def test_no_worker_lives_on_without_one_of_its_parts(load, system, start_worker, part):
    numbers = itertools.count(1)
    async with Proxy(system.settings.broker.url) as line:
        worker = start_worker(
            system.settings,
            program=[str(HERE / "sabotage.py")],
            CONFIGCACHE_BROKER__URL=line.url,
            PYTHONPATH=str(HERE.parents[1]),
            SABOTAGE=part,
        )
        while worker.is_running:
            batch = [next(numbers) for _ in range(20)]
            await load.fill(batch)
            await load.publish(batch, poison_every=5)
            if part in {"sessions", "letters"}:
                line.cut()

    assert worker.wait() == 1
    (died,) = worker.events("worker.died")
    assert "sabotage" in json.dumps(died)
    await load.accounts_balance(start_worker(system.settings))
