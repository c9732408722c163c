"""The pipeline over in-memory ports: what it clears, settles and holds."""

import asyncio

import pytest

from configcache.retry import RetryPolicy
from configcache.wire import Properties, Reason
from configcache_worker.core.ports import Burial, Chunk, Position
from tests.unit.rig import FakeSession, Rig, everybody, one, refuse, row, running
from tests.waiting import eventually


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
    rig = Rig(policy=RetryPolicy(first_s=3600, longest_s=3600))
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


async def test_a_command_is_acked_only_after_the_last_chunk(rig):
    seen = []

    async def clear(scopes, *, after, limit):
        assert not rig.session.acked
        seen.append(after)
        return Chunk(1, Position(0, len(seen), "page") if len(seen) < 3 else None)

    rig.table.clear = clear
    rig.receive(everybody())
    await rig.settled()

    assert seen == [None, Position(0, 1, "page"), Position(0, 2, "page")]


async def test_equal_bodies_with_other_properties_are_not_the_same_message(rig):
    rig.receive(one(1))
    await rig.settled()

    rig.receive(one(1), properties=Properties(type="SomethingElse"))
    await rig.settled()

    assert [letter.reason for letter in rig.dead_letters.letters] == [Reason.WRONG_MESSAGE_TYPE]


async def test_nothing_of_a_settled_delivery_is_kept(rig):
    rig.receive(one(1), one(2), b"{")
    rig.receive(one(3), solo=True)
    await rig.settled()

    intake = rig.pipeline._intake
    assert (intake.held_bytes, intake.unburied) == (0, 0)
    assert not intake.inbox
    assert not intake._solos


async def test_poison_faster_than_its_letters_pauses_reading_and_loses_no_session():
    async with running(Rig(max_held_bytes=100)) as rig:
        rig.dead_letters.gate.clear()

        rig.receive(b"x" * 30, b"y" * 30)
        assert rig.session.is_paused
        rig.dead_letters.gate.set()
        await rig.settled()

        assert not rig.session.is_paused
        assert not rig.session.has_ended


async def test_letters_that_got_through_make_room_for_others():
    async with running(Rig(max_held_bytes=100)) as rig:
        for _ in range(5):
            rig.receive(b"x" * 60)
            await rig.settled()

        assert not rig.session.has_ended


async def test_too_much_poison_that_cannot_be_published_ends_the_session_until_a_letter_gets_through():
    async with running(Rig(max_held_bytes=100)) as rig:
        rig.dead_letters.outcome = Burial.UNAVAILABLE

        rig.receive(b"x" * 60, b"y" * 60, one(1))
        await eventually(lambda: rig.session.has_ended)
        ready = asyncio.create_task(rig.pipeline.ready_to_consume())
        await eventually(lambda: "dead-letters-unavailable" in rig.pipeline.troubles())
        assert not ready.done()
        rig.dead_letters.outcome = Burial.CONFIRMED
        await ready

        assert rig.pipeline.troubles() == {}


async def test_a_drain_keeps_the_session_whatever_becomes_of_the_poison_it_holds():
    async with running(Rig(max_held_bytes=100)) as rig:
        rig.dead_letters.outcome = Burial.UNAVAILABLE
        rig.dead_letters.gate.clear()

        rig.receive(b"x" * 60, b"y" * 60)
        assert rig.session.is_paused
        rig.pipeline.drain()
        rig.dead_letters.gate.set()
        await eventually(lambda: not rig.session.is_paused)

    assert not rig.session.has_ended
    assert rig.session.open == {1, 2}


async def test_poison_that_stays_within_its_bound_does_not_hold_up_good_commands_for_ever():
    async def bury_only_the_first(letters):
        return [Burial.CONFIRMED if each.delivery.tag == 1 else Burial.UNAVAILABLE for each in letters]

    async with running(Rig(max_held_bytes=100)) as rig:
        rig.dead_letters.bury = bury_only_the_first
        rig.receive(b"x" * 10, b"y" * 45)
        assert rig.session.is_paused

        await eventually(lambda: not rig.session.is_paused)

        assert rig.session.open == {2}
        assert not rig.session.has_ended


async def test_a_held_batch_of_a_lost_session_is_given_up_when_the_next_one_is_prepared():
    rig = Rig(policy=RetryPolicy(first_s=3600, longest_s=3600))
    async with running(rig):
        rig.table.fails = refuse("57P03")
        rig.receive(one(1))
        await eventually(lambda: "database" in rig.pipeline.troubles())

        rig.session.end("cut")
        rig.session = FakeSession()
        rig.table.fails = lambda scopes, limit: None
        await rig.pipeline.ready_to_consume()
        rig.receive(one(2))
        await rig.settled()

        assert rig.session.acked == {1}
