"""Plain numbers: how a histogram counts, how long a pause lasts, and what a pipeline adds where."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from configcache.wire import Reason
from configcache_worker.core.ports import Burial, TableFault
from configcache_worker.core.totals import Histogram, PauseCause, Pauses, RetryCause
from tests.unit.rig import Rig, everybody, one, refuse, row, running
from tests.waiting import eventually

TOO_SLOW = TableFault("statement timeout", sqlstate="57014", timed_out=True)


def test_a_figure_counts_in_every_bucket_whose_bound_it_does_not_exceed():
    histogram = Histogram((1, 2, 5))
    for figure in (0.5, 1, 1.5, 5, 6):
        histogram.observe(figure)

    assert list(histogram.buckets()) == [(1, 2), (2, 3), (5, 4), (float("inf"), 5)]
    assert histogram.sum == 14


def test_the_seconds_of_a_pause_grow_while_it_lasts_and_stay_when_it_is_over():
    pauses = Pauses()
    pauses.note(PauseCause.DATABASE, True, 10.0)
    pauses.note(PauseCause.DATABASE, True, 11.0)
    assert PauseCause.DATABASE in pauses
    assert pauses.seconds(PauseCause.DATABASE, 12.5) == 2.5

    pauses.note(PauseCause.DATABASE, False, 13.0)
    pauses.note(PauseCause.DATABASE, False, 14.0)
    pauses.note(PauseCause.DATABASE, True, 20.0)
    pauses.note(PauseCause.DATABASE, False, 21.0)

    assert PauseCause.DATABASE not in pauses
    assert pauses.seconds(PauseCause.DATABASE, 100.0) == 4.0
    assert pauses.seconds(PauseCause.BROKER, 100.0) == 0.0


class Ages:
    """How old each delivery is: as many seconds as its tag says; and who was asked about."""

    def __init__(self):
        self.asked = []

    def __call__(self, delivery):
        self.asked.append(delivery.tag)
        return float(delivery.tag)


async def gathered(rig, *bodies):
    """Deliver *bodies* while a first command is in the database, so that they make one batch."""
    rig.table.held.clear()
    rig.receive(one(999))
    await eventually(lambda: rig.table.begun)
    rig.receive(*bodies)
    rig.table.held.set()


async def test_a_batch_asks_for_the_age_of_its_oldest_delivery_alone():
    ages = Ages()
    async with running(Rig(age_s=ages)) as rig:
        await gathered(rig, one(9), one(1), everybody("Mobile"))
        await rig.settled()

    assert ages.asked == [1, 2]
    assert rig.pipeline.totals.lag_seconds.sum == 3.0


async def test_a_batch_that_was_taken_apart_asks_for_the_oldest_delivery_of_each_part():
    ages = Ages()
    async with running(Rig(age_s=ages)) as rig:
        rig.table.fails = refuse("P0001", 7)
        await gathered(rig, one(8), one(7), one(5), one(6), one(5))
        await eventually(lambda: rig.session.open == {3})

    assert sorted(ages.asked) == [1, 2, 4]
    assert rig.pipeline.totals.retries[RetryCause.TAKEN_APART] == 2


async def test_a_message_that_does_not_say_when_it_was_published_has_no_lag():
    async with running(Rig(age_s=lambda delivery: None)) as rig:
        rig.receive(one(1))
        await rig.settled()

    assert list(rig.pipeline.totals.lag_seconds.buckets())[-1][1] == 0


async def test_absorbed_commands_are_cleared_and_coalesced(rig):
    await gathered(rig, one(1), one(1), one(2), everybody(), one(3, "Mobile"))
    await rig.settled()

    totals = rig.pipeline.totals
    assert (totals.cleared, totals.coalesced, totals.batches) == (6, 3, 2)
    assert totals.batch_commands.sum == 6


async def test_letters_and_rejects_are_counted_by_their_reason(rig):
    rig.receive(b"{", b"[]")
    rig.receive(one(1), refusal=Reason.UNREADABLE_PROPERTIES)
    await rig.settled()
    rig.dead_letters.outcome = Burial.UNENCODABLE
    rig.receive(b"{")
    await rig.settled()

    totals = rig.pipeline.totals
    assert totals.buried == {Reason.INVALID_JSON: 1, Reason.NOT_AN_OBJECT: 1}
    assert totals.rejected == {Reason.INVALID_JSON: 1, Reason.UNREADABLE_PROPERTIES: 1}
    assert totals.dead_lettered == 4


async def test_a_convicted_command_that_was_too_long_to_keep_is_rejected_with_the_same_reason(rig):
    rig.table.fails = refuse("P0001", 7)
    rig.receive({**one(7)}, size=5_000)
    for associate in itertools.count(100):
        rig.table.rows.add(row(associate))
        rig.receive(one(associate))
        await eventually(lambda: len(rig.session.open) <= 1)
        if not rig.session.open:
            break

    totals = rig.pipeline.totals
    assert totals.convicted == {Reason.REFUSED_BY_DATABASE: 1}
    assert totals.rejected == {Reason.REFUSED_BY_DATABASE: 1}
    assert totals.retries[RetryCause.SET_ASIDE] >= 2


@pytest.mark.parametrize(
    ("fault", "cause"),
    [(TOO_SLOW, RetryCause.TOO_SLOW), (TableFault("gone"), RetryCause.DATABASE)],
)
async def test_what_is_tried_again_is_counted_by_its_cause(rig, fault, cause):
    faults = [fault]

    def fails(scopes, limit):
        if faults:
            raise faults.pop()

    rig.table.fails = fails
    rig.receive(one(1))
    await rig.settled()

    assert rig.pipeline.totals.retries == {cause: 1}


async def test_the_seconds_without_dead_letters_are_counted_until_one_got_through():
    async with running(Rig(max_held_bytes=100)) as rig:
        rig.dead_letters.outcome = Burial.UNAVAILABLE
        pauses = rig.pipeline.totals.pauses

        rig.receive(b"x" * 60)
        await eventually(lambda: PauseCause.DEAD_LETTERS in pauses)
        rig.dead_letters.outcome = Burial.CONFIRMED
        await rig.pipeline.ready_to_consume()

        assert PauseCause.DEAD_LETTERS not in pauses
        assert pauses.seconds(PauseCause.DEAD_LETTERS, asyncio.get_running_loop().time()) > 0
        assert rig.pipeline.totals.retries[RetryCause.DEAD_LETTERS] >= 1
