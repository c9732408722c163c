"""A fault is somebody's: the environment's, a batch's size, or one command's. The others never pay for it for long."""

import itertools

import pytest

from configcache.retry import RetryPolicy
from configcache.wire import Reason
from configcache_worker.core.faults import Suspicion
from configcache_worker.core.ports import Burial, Scope, TableFault
from tests.unit.rig import FakeSession, Rig, everybody, one, refuse, row, running
from tests.waiting import eventually

SEVEN = Scope("WebClient", "Web", 7)
TOO_SLOW = TableFault("statement timeout", sqlstate="57014", timed_out=True)


def only_seven(fault):
    """Fail every transaction that touches associate 7."""

    def fails(scopes, limit):
        if any(scope.associate_id in (7, None) for scope in scopes):
            raise fault

    return fails


async def more_attempts(rig, count):
    before = rig.table.attempts
    await eventually(lambda: rig.table.attempts >= before + count)


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


@pytest.mark.parametrize("sqlstate", ["53100", "P0001"])
async def test_a_batch_of_which_nothing_goes_through_is_not_taken_apart_to_the_last_command(sqlstate):
    async with running(Rig(policy=RetryPolicy(first_s=0.001, longest_s=0.05))) as rig:
        rig.table.rows = {row(associate) for associate in range(1, 501)}
        rig.table.fails = lambda scopes, limit: scopes and refuse(sqlstate)(scopes, limit)

        rig.receive(*[one(associate) for associate in range(1, 501)])
        await eventually(lambda: len(rig.pipeline._intake.set_aside) == 500)
        assert rig.table.attempts < 40
        assert "database" in rig.pipeline.troubles()
        rig.table.fails = lambda scopes, limit: None
        await rig.settled()

        assert rig.table.rows == set()
        assert rig.dead_letters.letters == []


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


@pytest.mark.parametrize(
    "fault",
    [
        TOO_SLOW,
        TableFault("lock timeout", sqlstate="55P03"),
        TableFault("a trigger's function names no column", sqlstate="42703"),
        TableFault("damaged page", sqlstate="XX001"),
        TableFault("TypeError", unexpected=True),
    ],
    ids=lambda fault: fault.sqlstate,
)
async def test_what_only_one_command_meets_holds_up_no_other_and_never_convicts_it(rig, fault):
    rig.table.rows = {row(associate) for associate in range(1, 30)}
    rig.table.fails = only_seven(fault)

    rig.receive(one(7), one(8))
    await eventually(lambda: rig.session.acked == {2})
    for associate in range(9, 30):
        (tag,) = rig.receive(one(associate))
        await eventually(lambda tag=tag: tag in rig.session.acked)
    await more_attempts(rig, 5)
    assert rig.session.open == {1}
    rig.table.fails = lambda scopes, limit: None
    await rig.settled()

    assert rig.dead_letters.letters == []
    assert rig.session.acked == set(range(1, 24))


async def test_many_refused_neighbours_do_not_keep_a_good_command_waiting(rig):
    bad = range(1, 200)
    rig.table.rows = {row(associate) for associate in range(1, 300)}
    rig.table.fails = refuse("P0001", *bad)

    rig.receive(*[one(associate) for associate in range(1, 202)])
    await eventually(lambda: {200, 201} <= rig.session.acked)

    assert rig.table.attempts < 3 * len(bad)
    rig.table.fails = lambda scopes, limit: None
    await rig.settled()


async def test_refused_neighbours_do_not_make_a_worker_unready_that_clears_the_others():
    rig = Rig(policy=RetryPolicy(first_s=3600, longest_s=3600))
    rig.table.rows = {row(associate) for associate in range(1, 20)}
    rig.table.fails = refuse("P0001", 1, 2, 3, 4, 5)
    async with running(rig):
        rig.receive(*[one(associate) for associate in range(1, 11)])
        await eventually(lambda: rig.session.open == {1, 2, 3, 4, 5})
        await eventually(lambda: len(rig.pipeline._intake.set_aside) == 5)

        assert rig.pipeline.troubles() == {}


async def test_after_a_passing_fault_one_refused_command_does_not_make_the_worker_unready(rig):
    faults = iter([TableFault("deadlock", sqlstate="40P01")])

    def fails(scopes, limit):
        for fault in faults:
            raise fault
        only_seven(TableFault("refused", sqlstate="P0001"))(scopes, limit)

    rig.table.fails = fails
    rig.table.rows = {row(7)}

    rig.receive(one(7))
    await more_attempts(rig, 4)

    assert rig.pipeline.troubles() == {}
    rig.table.fails = lambda scopes, limit: None
    await rig.settled()


async def test_an_outage_met_by_commands_one_by_one_is_told(rig):
    rig.table.rows = {row(associate) for associate in range(1, 5)}
    rig.table.fails = refuse("P0001")

    for associate in range(1, 5):
        rig.receive(one(associate))
        await more_attempts(rig, 1)
    await eventually(lambda: "database" in rig.pipeline.troubles())

    rig.table.fails = lambda scopes, limit: None
    await rig.settled()
    assert rig.pipeline.troubles() == {}


async def test_the_rest_of_a_failing_batch_is_left_alone_once_its_session_is_over(rig):
    rig.table.rows = {row(1), row(2)}

    def fails(scopes, limit):
        if len(scopes) > 1:
            rig.session.end("cut")
            raise TableFault("refused", sqlstate="P0001")

    rig.table.fails = fails
    rig.receive(one(1), one(2))
    await eventually(lambda: rig.session.has_ended)
    rig.session = FakeSession()
    rig.receive(one(3))
    await rig.settled()

    assert rig.table.rows == {row(1), row(2)}
    assert rig.table.attempts == 2


async def test_a_conviction_for_a_lost_session_leaves_the_letters_of_the_next_one_alone(rig):
    rig.table.rows = {row(7)}
    rig.table.fails = refuse("P0001", 7)
    trials = rig.pipeline._clearing._trials
    trials.postpone(SEVEN, Suspicion(failures=2, tries=2, contrasts=-1), due=0.0)
    rig.table.held.clear()
    rig.receive(one(7))
    await eventually(lambda: rig.table.begun)

    rig.session.end("cut")
    rig.session = FakeSession()
    rig.dead_letters.outcome = Burial.UNAVAILABLE
    rig.receive(b"{")
    rig.table.held.set()
    await eventually(lambda: rig.table.attempts)
    rig.dead_letters.outcome = Burial.CONFIRMED
    await rig.settled()

    assert [letter.reason for letter in rig.dead_letters.letters] == [Reason.INVALID_JSON]
    assert SEVEN in trials
