"""Rows of the broker: restarted, killed, frozen, its queues deleted, its consumers thrown out, its publishers blocked."""

import asyncio
import contextlib
import os
import signal

import pytest

from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE
from configcache_worker.local.rabbitmq import RabbitMQ
from configcache_worker.settings import BrokerSettings, Settings
from tests.chaos.load import Load, delete_queue, ready
from tests.conftest import available
from tests.locks import locked_row, someone_waits_for_a_lock
from tests.proxy import Proxy
from tests.waiting import eventually


def count(worker, event):
    return len(worker.events(event))


async def more(worker, event, before):
    """Wait for one more line of *event* than there were *before*."""
    await eventually(lambda: count(worker, event) > before, timeout_s=45)


@pytest.mark.timeout(180)
@pytest.mark.row(12, "RabbitMQ restarted under load, three times")
async def test_a_restarted_broker_is_found_again(load, system, start_worker, rabbitmq, scale):
    numbers = range(1, 12_001)
    await load.fill(numbers)
    worker = start_worker(system.settings)
    await ready(worker)

    async with load.flowing(numbers, poison_every=100):
        for _ in range(3):
            await load.progress()
            sessions = count(worker, "session.started")
            await asyncio.to_thread(rabbitmq.restart)
            await more(worker, "session.started", sessions)

    await load.accounts_balance(worker)


@pytest.mark.timeout(180)
@pytest.mark.row(13, "RabbitMQ killed (-9) in the middle of a batch, three times")
async def test_a_broker_killed_in_the_middle_of_a_batch_hands_it_out_again(
    load, system, start_worker, rabbitmq, scale
):
    worker = start_worker(system.settings)
    await ready(worker)

    for start in (1, 1_001, 2_001):
        numbers = range(start, start + 1_000)
        await load.fill(numbers)
        sessions = count(worker, "session.started")
        async with locked_row(system, numbers[500]):
            await load.publish(numbers, poison_every=100)
            await someone_waits_for_a_lock(system)
            await asyncio.to_thread(rabbitmq.kill)
        await asyncio.to_thread(rabbitmq.start)
        await more(worker, "session.started", sessions)
        await load.applied()

    await load.accounts_balance(worker)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("frozen", ["the line", "the node"])
@pytest.mark.row(15, "broker frozen: nothing is closed, no heartbeat comes")
async def test_a_frozen_broker_is_left_after_a_few_heartbeats(load, system, start_worker, rabbitmq, frozen):
    numbers = range(1, 6_001)
    await load.fill(numbers)
    async with Proxy(system.settings.broker.url) as line:
        worker = start_worker(
            system.settings,
            CONFIGCACHE_BROKER__URL=line.url,
            CONFIGCACHE_BROKER__HEARTBEAT_S="1",
            CONFIGCACHE_BROKER__CONNECT_TIMEOUT_S="2",
        )
        await ready(worker)

        async with load.flowing(numbers, poison_every=100):
            for _ in range(2):
                await load.progress()
                failures = count(worker, "session.failed")
                with frozen_node(rabbitmq) if frozen == "the node" else frozen_line(line):
                    await more(worker, "session.failed", failures)
                sessions = count(worker, "session.started")
                await more(worker, "session.started", sessions - 1)

        await load.accounts_balance(worker)


@contextlib.contextmanager
def frozen_line(line):
    line.freeze()
    yield
    line.thaw()


@contextlib.contextmanager
def frozen_node(rabbitmq):
    pid = rabbitmq._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.in_suite
@pytest.mark.parametrize("declares", ["worker", "somebody else"])
@pytest.mark.row(16, "consumer cancelled: the queue deleted, then there again")
async def test_a_deleted_queue_is_consumed_again_when_it_is_back(load, system, start_worker, scale, declares):
    worker = start_worker(
        system.settings, CONFIGCACHE_BROKER__DECLARE="true" if declares == "worker" else "false"
    )
    await ready(worker)

    for start in range(1, scale(3_001, in_suite=501), 500):
        numbers = range(start, start + 500)
        await load.fill(numbers)
        await load.publish(numbers, poison_every=100)
        await load.applied()
        await load.buried()
        sessions, failures = count(worker, "session.started"), count(worker, "session.failed")
        await delete_queue(system.settings.broker.url, COMMAND_QUEUE)
        if declares == "somebody else":
            await more(worker, "session.failed", failures + 1)
            assert not await asyncio.to_thread(worker.is_ready)
            await load.declare()
        await more(worker, "session.started", sessions)

    await load.fill(range(9_001, 9_101))
    await load.publish(range(9_001, 9_101), poison_every=10)
    await load.accounts_balance(worker)


@pytest.mark.timeout(180)
@pytest.mark.row(17, "channel closed by a consumer timeout during a database outage, three times in a row")
async def test_a_consumer_timeout_during_an_outage_loses_nothing(load, system, start_worker, rabbitmq):
    with impatient(rabbitmq):
        worker = start_worker(system.settings)
        await ready(worker)

        for start in (1, 501, 1_001):
            numbers = range(start, start + 500)
            await load.fill(numbers)
            await system.execute("ALTER TABLE configuration_cache RENAME TO away")
            failures, sessions = count(worker, "session.failed"), count(worker, "session.started")
            await load.publish(numbers, poison_every=100)
            await more(worker, "session.failed", failures)
            pauses = count(worker, "database.paused")
            await more(worker, "database.paused", pauses + 2)
            assert count(worker, "session.started") == sessions, "nothing is consumed during the outage"
            await system.execute("ALTER TABLE away RENAME TO configuration_cache")
            await load.applied()

        await load.accounts_balance(worker)


@contextlib.contextmanager
def impatient(rabbitmq):
    """A consumer has two seconds for an answer. The usual half an hour is checked every minute."""
    set_timeout = "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
    rabbitmq.ctl("eval", set_timeout.format(2_000, 500))
    try:
        yield
    finally:
        rabbitmq.ctl("eval", set_timeout.format(1_800_000, 60_000))


@pytest.mark.timeout(120)
@pytest.mark.row(18, "memory alarm: publishing of dead letters blocked, good commands flow")
async def test_an_alarm_holds_up_dead_letters_and_no_good_command(load, system, start_worker, rabbitmq):
    numbers = range(1, 4_001)
    await load.fill(numbers)
    await load.publish(numbers, poison_every=50)
    with alarm(rabbitmq):
        await eventually(lambda: has_alarm(rabbitmq))
        worker = start_worker(system.settings)

        await load.applied()
        await more(worker, "letters.unavailable", 1)
        assert await load.depth(DEAD_LETTER_QUEUE) == 0

    await load.accounts_balance(worker)


@contextlib.contextmanager
def alarm(rabbitmq):
    rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        yield
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1GB")


async def has_alarm(rabbitmq):
    return "memory" in await asyncio.to_thread(rabbitmq.ctl, "eval", "rabbit_alarm:get_alarms().")


@pytest.mark.in_suite
@pytest.mark.parametrize("declares", ["worker", "somebody else"])
@pytest.mark.row(19, "dead-letter queue missing: declared anew, or waited for")
async def test_without_the_dead_letter_queue_poison_waits_and_good_commands_do_not(
    load, system, start_worker, scale, declares
):
    numbers = range(1, scale(4_001, in_suite=401))
    half = len(numbers) // 2
    await load.fill(numbers)
    worker = start_worker(
        system.settings, CONFIGCACHE_BROKER__DECLARE="true" if declares == "worker" else "false"
    )
    await ready(worker)
    # So that the letters' connection is there when the queue is not any more.
    await load.publish(numbers[:half], poison_every=50)
    await load.applied()
    await load.buried()
    first = load.poison
    load.poison = set()

    await delete_queue(system.settings.broker.url, DEAD_LETTER_QUEUE)
    await load.publish(numbers[half:], poison_every=50)
    await load.applied()
    if declares == "somebody else":
        await more(worker, "letters.unavailable", 2)
        await load.declare()

    assert first
    await load.accounts_balance(worker)


@pytest.mark.timeout(240)
@pytest.mark.row(20, "three nodes, all in the URL: the leader's killed, then back")
async def test_a_cluster_that_loses_its_leader_goes_on(system, start_worker):
    with (
        available(),
        RabbitMQ() as first,
        RabbitMQ(join=first) as second,
        RabbitMQ(join=first) as third,
    ):
        nodes = {node.node_name: node for node in (first, second, third)}
        ports = ",".join(node.url.rpartition("@")[2].split("/")[0] for node in (third, second, first))
        settings = Settings(
            broker=BrokerSettings(url=f"amqp://guest:guest@{ports}/"), database=system.settings.database
        )
        load = Load(settings)
        await load.declare()
        numbers = range(1, 6_001)
        await load.fill(numbers)
        worker = start_worker(settings)
        await ready(worker)

        async with load.flowing(numbers, poison_every=100):
            for _ in range(2):
                await load.progress()
                leader = nodes[await asyncio.to_thread(leader_of, list(nodes.values()))]
                await asyncio.to_thread(leader.kill)
                await load.progress()
                await asyncio.to_thread(leader.start)

        await load.accounts_balance(worker)


def leader_of(nodes):
    """The name of the node that leads the commands' queue."""
    said = nodes[0].ctl("list_queues", "name", "leader", "--silent")
    (line,) = [line for line in said.splitlines() if line.startswith(f"{COMMAND_QUEUE}\t")]
    return line.split("\t")[1]
