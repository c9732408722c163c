"""The worker's life over in-memory parts: the written order of a stop, and what readiness says."""

import asyncio

import pytest

from configcache.connection import BrokerUnavailable
from configcache_worker.app import StartRefused, Worker
from configcache_worker.core.totals import PauseCause, RetryCause
from configcache_worker.postgres.catalog import LayoutError
from configcache_worker.rabbitmq.deliveries import end_cause
from tests.unit.rig import QUICK, FakeSession, Rig, one, refuse, row
from tests.waiting import eventually


class RecordingSession(FakeSession):
    """A consumer's session that tells what is asked of it, and delivers a last command while it is cancelled."""

    def __init__(self, rig):
        super().__init__()
        self.rig, self.calls, self.ended = rig, [], asyncio.Event()

    async def cancel_consumer(self):
        self.rig.receive(one(9))
        self.calls.append(("cancel", set(self.open)))

    async def flush(self):
        self.calls.append(("flush", set(self.open)))

    async def close(self):
        if ("close", set()) not in self.calls:
            self.calls.append(("close", set(self.open)))
        self.has_ended = True

    async def wait_ended(self):
        await self.ended.wait()
        return "the channel was closed"


class FakeParts:
    """Deliveries and table of a worker in one."""

    def __init__(self, rig):
        self.rig, self.layout, self.fails = rig, None, None

    async def open(self):
        if self.fails:
            raise self.fails
        self.rig.session = RecordingSession(self.rig)
        return self.rig.session

    async def check_layout(self):
        if self.layout:
            raise self.layout

    async def probe(self):
        await self.rig.table.probe()

    async def stop(self):
        pass

    async def close(self):
        pass


class WorkerRig(Rig):
    def __init__(self):
        super().__init__()
        self.parts = FakeParts(self)
        self.worker = Worker(
            pipeline=self.pipeline,
            table=self.parts,
            deliveries=self.parts,
            dead_letters=self.parts,
            policy=QUICK,
            drain_timeout_s=5,
            health_address=None,
        )

    async def started(self):
        running = asyncio.create_task(self.worker.run())
        await self.worker.sessions.session()
        return running


async def test_a_stop_cancels_finishes_flushes_and_closes_in_this_order():
    rig = WorkerRig()
    running = await rig.started()
    rig.table.rows = {row(1), row(9)}
    rig.table.held.clear()
    rig.receive(one(1))
    await eventually(lambda: rig.table.begun > 1)

    rig.worker.stop()
    await eventually(lambda: rig.session.calls)
    assert "worker" in (await rig.worker.readiness()).reasons
    rig.table.held.set()
    await asyncio.wait_for(running, 5)

    assert rig.session.calls == [("cancel", {1, 2}), ("flush", set()), ("close", set())]
    assert rig.table.rows == set()


async def test_a_stop_that_takes_too_long_still_flushes_what_was_settled():
    rig = WorkerRig()
    rig.worker._drain_timeout_s = 0.05
    running = await rig.started()
    rig.table.held.clear()
    rig.receive(one(1))

    rig.worker.stop()
    await asyncio.wait_for(running, 5)

    assert [name for name, _ in rig.session.calls] == ["cancel", "flush", "close"]
    assert rig.session.open == {1, 2}


async def test_a_table_that_cannot_serve_ends_the_start():
    rig = WorkerRig()
    rig.parts.layout = LayoutError("mine", ["It is a view."])

    with pytest.raises(StartRefused, match="It is a view"):
        await asyncio.wait_for(rig.worker.run(), 5)


async def test_readiness_names_why_nothing_is_consumed():
    rig = WorkerRig()
    rig.parts.fails = BrokerUnavailable("user name or password refused")
    running = asyncio.create_task(rig.worker.run())

    await eventually(lambda: rig.worker._last_failure)
    readiness = await rig.worker.readiness()

    assert readiness.reasons == {"broker": "not consuming: user name or password refused"}
    rig.worker.stop()
    await asyncio.wait_for(running, 5)


async def test_readiness_asks_the_table_while_nothing_is_in_flight():
    rig = WorkerRig()
    running = await rig.started()
    assert (await rig.worker.readiness()).ready

    rig.table.fails = refuse("25006")
    readiness = await rig.worker.readiness()

    assert list(readiness.reasons) == ["database"]
    rig.table.fails = lambda scopes, limit: None
    rig.worker.stop()
    await asyncio.wait_for(running, 5)


async def test_readiness_asks_the_table_while_nothing_but_poison_is_in_flight():
    rig = WorkerRig()
    running = await rig.started()
    rig.dead_letters.gate.clear()
    rig.receive(b"{")
    rig.table.fails = refuse("25006")

    readiness = await rig.worker.readiness()

    assert rig.pipeline.in_flight == 1
    assert list(readiness.reasons) == ["database"]
    rig.table.fails = lambda scopes, limit: None
    rig.dead_letters.gate.set()
    rig.worker.stop()
    await asyncio.wait_for(running, 5)


async def test_readiness_does_not_ask_the_table_while_a_statement_is_in_it():
    rig = WorkerRig()
    running = await rig.started()
    rig.table.held.clear()
    rig.receive(one(1))
    await eventually(lambda: rig.pipeline.is_clearing)

    readiness = await asyncio.wait_for(rig.worker.readiness(), 5)

    assert readiness.ready
    rig.table.held.set()
    rig.worker.stop()
    await asyncio.wait_for(running, 5)


async def test_sessions_are_counted_by_how_the_one_before_has_ended():
    rig = WorkerRig()
    running = await rig.started()

    rig.session.ended.set()
    first = rig.session
    await eventually(lambda: rig.worker.sessions.current not in (None, first))

    totals = rig.pipeline.totals
    assert totals.sessions == {"start": 1, "channel-closed": 1}
    assert totals.retries == {RetryCause.BROKER: 1}
    assert totals.pauses.seconds(PauseCause.BROKER, asyncio.get_running_loop().time()) > 0
    rig.worker.stop()
    await asyncio.wait_for(running, 5)


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("the broker closed the connection: CONNECTION_FORCED (320)", "connection-lost"),
        ("the connection was lost: [Errno 104] Connection reset by peer", "connection-lost"),
        (
            "the broker closed the channel: PRECONDITION_FAILED - delivery acknowledgement timed out",
            "channel-closed",
        ),
        ("the broker cancelled the consumer", "consumer-cancelled"),
        (
            "the dead letters can't be published, and no more can be held meanwhile",
            "dead-letters-unavailable",
        ),
        ("the broker sent what is not AMQP: a frame without its end", "other"),
    ],
)
def test_what_ends_a_session_has_a_stable_word(reason, cause):
    assert end_cause(reason) == cause


async def test_a_part_that_dies_ends_the_worker():
    rig = WorkerRig()
    running = await rig.started()

    def fails(scopes, limit):
        raise ZeroDivisionError

    rig.table.fails = fails
    rig.receive(one(1))

    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(running, 5)
    assert rig.session.open == {1}
