"""The pipeline over in-memory ports: what it clears, settles, holds and convicts."""

import asyncio
import contextlib
import itertools
import json

import pytest

from configcache.retry import RetryPolicy
from configcache.wire import COMMAND_PROPERTIES, Reason
from configcache_worker.core.pipeline import Limits, Pipeline
from configcache_worker.core.ports import Burial, Chunk, Delivery, TableFault
from tests.waiting import eventually


class FakeSession:
    """Settles as a channel does, and remembers."""

    def __init__(self):
        self.has_ended = False
        self.end_reason = None
        self.tag = 0
        self.open, self.acked, self.rejected = set(), set(), set()

    def settle(self, settlement):
        if self.has_ended:
            return False
        for tag in settlement.rejects:
            self._move(tag, self.rejected)
        for tag in sorted(self.open):
            if tag <= (settlement.ack_up_to or 0):
                self._move(tag, self.acked)
        for tag in settlement.acks:
            self._move(tag, self.acked)
        return True

    def _move(self, tag, settled):
        self.open.remove(tag)
        settled.add(tag)

    def end(self, reason):
        self.has_ended, self.end_reason = True, reason

    def deliveries(self, *bodies, **changes):
        found = []
        for body in bodies:
            self.tag += 1
            self.open.add(self.tag)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            delivery = Delivery(self.tag, raw, COMMAND_PROPERTIES, False, None, len(raw), None)
            found.append(delivery._replace(**changes))
        return found


class FakeTable:
    """Rows in a set. *fails* is asked before each transaction and may raise; *held* stops transactions."""

    def __init__(self, rows=()):
        self.rows = set(rows)
        self.passes, self.begun, self.attempts = [], 0, 0
        self.fails = lambda scopes, limit: None
        self.held = asyncio.Event()
        self.held.set()

    async def clear(self, scopes, *, after, limit):
        self.begun += 1
        await self.held.wait()
        await asyncio.sleep(0)
        self.attempts += 1
        self.fails(scopes, limit)
        self.passes.append(list(scopes))
        gone = {row for row in self.rows for scope in scopes if matches(scope, row)}
        self.rows -= gone
        return Chunk(len(gone), None)

    async def probe(self):
        await self.clear([], after=None, limit=0)


class FakeDeadLetters:
    def __init__(self):
        self.letters, self.outcome = [], Burial.CONFIRMED

    async def bury(self, letters):
        await asyncio.sleep(0)
        if self.outcome is Burial.CONFIRMED:
            self.letters += letters
        return [self.outcome] * len(letters)


def matches(scope, row):
    return row[:2] == scope[:2] and scope.associate_id in (None, row[2])


def one(associate, instance="Web"):
    return {"Application": "WebClient", "Instance": instance, "AssociateId": associate}


def everybody(instance="Web"):
    return {"Application": "WebClient", "Instance": instance, "ForAllAssociates": True}


def row(associate, instance="Web"):
    return ("WebClient", instance, associate)


class Rig:
    def __init__(self, **limits):
        self.session, self.table, self.dead_letters = FakeSession(), FakeTable(), FakeDeadLetters()
        self.pipeline = Pipeline(
            table=self.table,
            dead_letters=self.dead_letters,
            policy=RetryPolicy(first_s=0.001, longest_s=0.01),
            limits=Limits(**limits),
        )

    def receive(self, *bodies, **changes):
        deliveries = self.session.deliveries(*bodies, **changes)
        self.pipeline.receive(self.session, deliveries)
        return [delivery.tag for delivery in deliveries]

    async def settled(self):
        await eventually(lambda: not self.session.open)


@pytest.fixture
async def rig():
    async with running(Rig()) as found:
        yield found


@contextlib.asynccontextmanager
async def running(rig):
    task = asyncio.create_task(rig.pipeline.run())
    yield rig
    rig.pipeline.drain()
    async with asyncio.timeout(5):
        await task


def refuse(sqlstate, *associates):
    """Fail every transaction that touches one of *associates*, or any where none is named."""

    def fails(scopes, limit):
        if not associates or any(scope.associate_id in (*associates, None) for scope in scopes):
            raise TableFault("refused", sqlstate=sqlstate)

    return fails


async def test_a_command_is_acked_after_its_rows_are_gone(rig):
    rig.table.rows = {row(1), row(2)}
    rig.table.held.clear()

    rig.receive(one(1))
    await asyncio.sleep(0)
    assert rig.session.open == {1}
    rig.table.held.set()
    await rig.settled()

    assert rig.table.rows == {row(2)}
    assert rig.session.acked == {1}


async def test_what_arrives_during_a_batch_is_the_next_batch(rig):
    rig.table.held.clear()
    rig.receive(one(1))
    await asyncio.sleep(0)
    rig.receive(one(2), one(3))
    rig.receive(everybody("Mobile"), one(2))

    rig.table.held.set()
    await rig.settled()

    assert [len(scopes) for scopes in rig.table.passes] == [1, 3]


async def test_poison_is_dead_lettered_with_its_reason_while_good_commands_go_on(rig):
    rig.table.rows = {row(1)}

    rig.receive(b"{", one(1), {"Application": "WebClient", "Instance": "Web"})
    await rig.settled()

    assert rig.table.rows == set()
    assert [letter.reason for letter in rig.dead_letters.letters] == [
        Reason.INVALID_JSON,
        Reason.MISSING_ASSOCIATE,
    ]
    assert rig.session.acked == {1, 2, 3}


async def test_poison_that_cannot_be_published_stays_open_and_holds_up_nothing(rig):
    rig.dead_letters.outcome = Burial.UNAVAILABLE
    rig.table.rows = {row(1)}

    rig.receive(b"{", one(1))
    await eventually(lambda: not rig.table.rows and rig.session.acked)
    assert rig.session.open == {1}
    rig.dead_letters.outcome = Burial.CONFIRMED
    await rig.settled()

    assert rig.session.acked == {1, 2}


async def test_a_letter_that_cannot_be_encoded_is_left_to_the_broker(rig):
    rig.dead_letters.outcome = Burial.UNENCODABLE

    rig.receive(b"{")
    await rig.settled()

    assert rig.session.rejected == {1}


async def test_an_unreadable_delivery_is_rejected_and_never_decoded(rig):
    rig.receive(one(1), refusal=Reason.UNREADABLE_PROPERTIES)

    assert rig.session.rejected == {1}
    assert rig.table.passes == []


async def test_too_much_poison_ends_the_session_until_a_letter_gets_through():
    async with running(Rig(max_held_bytes=100)) as rig:
        rig.dead_letters.outcome = Burial.UNAVAILABLE

        rig.receive(b"x" * 60, b"y" * 60, one(1))
        assert rig.session.has_ended
        ready = asyncio.create_task(rig.pipeline.ready_to_consume())
        await eventually(lambda: "dead-letters-unavailable" in rig.pipeline.troubles())
        assert not ready.done()
        rig.dead_letters.outcome = Burial.CONFIRMED
        await ready

        assert rig.pipeline.troubles() == {}
        assert rig.session.acked == set()


@pytest.mark.parametrize("sqlstate", [None, "57P01", "25006", "42P01", "40P01"])
async def test_during_an_outage_commands_are_held_and_applied_when_it_is_over(rig, sqlstate):
    rig.table.rows = {row(1), row(2)}
    rig.table.fails = refuse(sqlstate)

    rig.receive(one(1), one(2))
    await eventually(lambda: "database" in rig.pipeline.troubles())
    assert rig.session.open == {1, 2}
    rig.table.fails = lambda scopes, limit: None
    await rig.settled()

    assert rig.table.rows == set()
    assert rig.session.acked == {1, 2}
    assert rig.pipeline.troubles() == {}
    assert rig.dead_letters.letters == []


async def test_only_the_command_at_fault_is_convicted_and_only_by_contrast(rig):
    rig.table.rows = {row(associate) for associate in range(1, 30)}
    rig.table.fails = refuse("P0001", 7)

    tags = rig.receive(*[one(associate) for associate in range(1, 21)])
    await eventually(lambda: rig.session.open == {tags[6]})
    for associate in itertools.cycle(range(21, 30)):
        rig.table.rows.add(row(associate))
        (tag,) = rig.receive(one(associate))
        await eventually(lambda tag=tag: tag in rig.session.acked)
        if not rig.session.open:
            break

    (letter,) = rig.dead_letters.letters
    assert letter.delivery.tag == tags[6]
    assert letter.reason is Reason.REFUSED_BY_DATABASE
    assert rig.table.rows & {row(associate) for associate in range(1, 21)} == {row(7)}


async def test_an_absorbed_command_is_not_convicted_with_the_one_that_absorbed_it(rig):
    rig.table.rows = {row(1), row(7)} | {row(n, "Mobile") for n in range(50)}
    rig.table.fails = refuse("P0001", 7)

    rig.receive(everybody(), one(1))
    await eventually(lambda: row(1) not in rig.table.rows)

    await eventually(lambda: rig.session.open == {1})
    assert rig.session.acked == {2}


async def test_nothing_is_convicted_while_nothing_goes_through(rig):
    rig.table.rows = {row(associate) for associate in range(1, 9)}
    rig.table.fails = refuse("P0001")

    rig.receive(*[one(associate) for associate in range(1, 9)])
    await eventually(lambda: rig.table.attempts > 60)
    assert "database" in rig.pipeline.troubles()
    rig.table.fails = lambda scopes, limit: None
    await rig.settled()

    assert rig.dead_letters.letters == []
    assert rig.session.acked == set(range(1, 9))


async def test_a_fault_of_this_program_convicts_nobody(rig):
    def fails(scopes, limit):
        if any(scope.associate_id == 7 for scope in scopes):
            raise TableFault("TypeError", unexpected=True)

    rig.table.fails = fails
    rig.table.rows = {row(associate) for associate in range(1, 30)}

    rig.receive(one(7))
    for associate in range(8, 30):
        rig.receive(one(associate))
        await eventually(lambda associate=associate: row(associate) not in rig.table.rows)

    assert rig.session.open == {1}
    assert rig.dead_letters.letters == []
    rig.table.fails = lambda scopes, limit: None


async def test_a_batch_that_takes_too_long_is_made_smaller_until_it_fits(rig):
    limits = []

    def fails(scopes, limit):
        limits.append(limit)
        if len(scopes) > 2 or limit > 1000:
            raise TableFault("statement timeout", sqlstate="57014", timed_out=True)

    rig.table.fails = fails
    rig.table.rows = {row(associate) for associate in range(1, 17)}

    rig.receive(*[one(associate) for associate in range(1, 17)])
    await rig.settled()

    assert rig.table.rows == set()
    assert min(limits) >= 100
    assert rig.dead_letters.letters == []


async def test_a_delivery_that_came_back_ten_times_runs_alone(rig):
    rig.table.held.clear()
    rig.receive(one(1))
    await asyncio.sleep(0)
    rig.receive(one(2))
    rig.receive(one(3), solo=True)
    rig.receive(one(4), one(5))

    rig.table.held.set()
    await rig.settled()

    associates = [[scope.associate_id for scope in scopes] for scopes in rig.table.passes]
    assert associates == [[1], [2], [3], [4, 5]]


async def test_nothing_is_settled_on_a_later_session(rig):
    rig.table.held.clear()
    rig.receive(one(1), one(2))
    first, rig.session = rig.session, FakeSession()
    await asyncio.sleep(0)

    first.end("cut")
    rig.receive(b"{")
    rig.table.held.set()
    await rig.settled()
    rig.receive(one(3))
    await rig.settled()

    assert first.acked == set()
    assert rig.session.acked == {1, 2}


async def test_a_new_session_waits_until_the_table_can_be_written(rig):
    rig.table.fails = refuse("25006")
    ready = asyncio.create_task(rig.pipeline.ready_to_consume())

    await eventually(lambda: "database" in rig.pipeline.troubles())
    assert not ready.done()
    rig.table.fails = lambda scopes, limit: None
    await ready

    assert rig.pipeline.troubles() == {}


async def test_draining_finishes_what_was_received():
    rig = Rig()
    rig.table.held.clear()
    task = asyncio.create_task(rig.pipeline.run())
    rig.receive(one(1))
    await asyncio.sleep(0)
    rig.receive(one(2), b"{")

    rig.pipeline.drain()
    rig.table.held.set()
    await asyncio.wait_for(task, 5)

    assert rig.session.acked == {1, 2, 3}


async def test_draining_during_an_outage_ends_at_once_and_settles_nothing():
    rig = Rig()
    rig.pipeline._policy = RetryPolicy(first_s=3600, longest_s=3600)
    rig.table.fails = refuse("57P03")
    task = asyncio.create_task(rig.pipeline.run())
    rig.receive(one(1))
    await eventually(lambda: "database" in rig.pipeline.troubles())

    rig.pipeline.drain()
    await asyncio.wait_for(task, 5)

    assert rig.session.open == {1}


async def test_a_fault_of_the_pipeline_itself_ends_it():
    rig = Rig()

    def fails(scopes, limit):
        raise ZeroDivisionError

    rig.table.fails = fails
    task = asyncio.create_task(rig.pipeline.run())
    rig.receive(one(1))

    with pytest.raises(ExceptionGroup, match="unhandled"):
        await asyncio.wait_for(task, 5)
    assert rig.session.open == {1}


async def test_draining_during_an_outage_does_not_wait_for_the_attempt_that_is_running():
    rig = Rig()
    rig.table.fails = refuse("57P03")
    task = asyncio.create_task(rig.pipeline.run())
    rig.receive(one(1))
    await eventually(lambda: "database" in rig.pipeline.troubles())
    rig.table.held.clear()
    attempts = rig.table.begun
    await eventually(lambda: rig.table.begun > attempts)

    rig.pipeline.drain()
    await asyncio.wait_for(task, 5)

    assert rig.session.open == {1}


async def test_when_unburied_poison_fills_half_the_prefetch_readiness_says_so():
    async with running(Rig(prefetch=250)) as rig:
        rig.dead_letters.outcome = Burial.UNAVAILABLE

        rig.receive(*[b"{"] * 240)
        await eventually(lambda: "dead-letters-unavailable" in rig.pipeline.troubles())
        rig.receive(one(1))
        await eventually(lambda: rig.session.acked == {241})
        rig.dead_letters.outcome = Burial.CONFIRMED
        await rig.settled()

        assert rig.pipeline.troubles() == {}


async def test_a_convicted_command_that_was_too_long_to_keep_is_left_to_the_broker(rig):
    rig.table.rows = {row(7)}
    rig.table.fails = refuse("P0001", 7)

    rig.receive(one(7), size=100_000)
    for associate in itertools.cycle(range(21, 30)):
        rig.table.rows.add(row(associate))
        (tag,) = rig.receive(one(associate))
        await eventually(lambda tag=tag: tag in rig.session.acked)
        if not rig.session.open:
            break

    assert rig.session.rejected == {1}
    assert rig.dead_letters.letters == []


async def test_a_command_under_suspicion_does_not_fail_the_batches_after_it(rig):
    rig.table.rows = {row(7), row(8)}
    rig.table.fails = refuse("P0001", 7)
    rig.receive(one(7))
    await eventually(lambda: rig.table.attempts > 3)

    rig.receive(one(7), one(8))
    await eventually(lambda: rig.session.acked == {3})

    assert rig.session.open == {1, 2}
    assert [scope.associate_id for scopes in rig.table.passes for scope in scopes] == [8]
