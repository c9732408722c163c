from __future__ import annotations

import asyncio
import contextlib

import pytest

from configcache.connection import BrokerUnavailable, Supervisor, broker_errors
from configcache.retry import RetryPolicy


class FakeSession:
    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.cause: Exception | None = None
        self.closed = 0
        self.was_closed = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.is_closed = False

    async def wait_ended(self) -> str:
        await self.ended.wait()
        if self.cause:
            raise self.cause
        return "cut"

    async def close(self) -> None:
        self.closed += 1
        self.was_closed.set()
        await self.may_close.wait()
        self.is_closed = True


class Highest(RetryPolicy):
    """The policy without its randomness."""

    def delay_s(self, attempt):
        return min(self.longest_s, self.first_s * 2 ** (attempt - 1))


class World:
    """Opens fake sessions, or raises what is next in *failures*; keeps a clock and a record."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.sessions: list[FakeSession] = []
        self.stillborn = 0
        self.reports: list[tuple[int, float, str]] = []
        self.now_s = 0.0
        self.opening = asyncio.Event()
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.asleep = asyncio.Event()
        self.may_wake = asyncio.Event()
        self.may_wake.set()
        self.supervisor = Supervisor(
            name="fake",
            open=self.open,
            policy=Highest(first_s=1.0, longest_s=8.0),
            on_failure=lambda attempt, delay_s, cause: self.reports.append((attempt, delay_s, str(cause))),
            sleep=self.sleep,
            clock=lambda: self.now_s,
        )

    async def open(self) -> FakeSession:
        self.opening.set()
        await self.may_open.wait()
        if self.failures:
            raise self.failures.pop(0)
        session = FakeSession()
        if len(self.sessions) < self.stillborn:
            session.ended.set()
        self.sessions.append(session)
        return session

    async def sleep(self, delay_s: float) -> None:
        self.asleep.set()
        await self.may_wake.wait()
        self.now_s += delay_s

    async def end(self, session: FakeSession, *, after_s: float = 0.0) -> None:
        self.now_s += after_s
        session.ended.set()
        await session.was_closed.wait()


@pytest.fixture
def world():
    return World()


@contextlib.asynccontextmanager
async def running(supervisor):
    """Run the supervisor, and see to it that it leaves no task behind."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(supervisor.run())
    try:
        yield task
    finally:
        async with asyncio.timeout(5):
            await supervisor.stop()
            await asyncio.gather(task, return_exceptions=True)
    assert asyncio.all_tasks() == before


async def test_whoever_asks_early_waits_for_the_first_session(world):
    async with running(world.supervisor):
        waiters = [asyncio.create_task(world.supervisor.session()) for _ in range(3)]

        sessions = await asyncio.gather(*waiters)

    assert sessions == world.sessions * 3


async def test_the_next_session_opens_when_one_ends_and_never_beside_it(world):
    async with running(world.supervisor):
        first = await world.supervisor.session()
        await world.end(first)
        second = await world.supervisor.session()

        assert (first.closed, second.closed) == (1, 0)
        assert world.supervisor.current is second
    assert world.sessions == [first, second]


async def test_there_is_no_current_session_between_two(world):
    world.may_wake.clear()
    async with running(world.supervisor):
        await world.end(await world.supervisor.session())
        await world.asleep.wait()

        assert world.supervisor.current is None
        assert "waiting" in repr(world.supervisor)


async def test_failed_attempts_are_reported_with_a_growing_delay_and_tried_again(world):
    world.failures = [OSError("a"), BrokerUnavailable("b"), ValueError("c")]
    async with running(world.supervisor):
        await world.supervisor.session()

    assert [(attempt, delay_s) for attempt, delay_s, _ in world.reports] == [(1, 1.0), (2, 2.0), (3, 4.0)]
    assert [text[-1] for _, _, text in world.reports] == ["a", "b", "c"]


async def test_no_delay_exceeds_the_longest(world):
    world.failures = [OSError("down")] * 8
    async with running(world.supervisor):
        await world.supervisor.session()

    assert world.reports[-1][:2] == (8, 8.0)


async def test_a_session_that_dies_young_does_not_reset_the_back_off(world):
    world.failures = [OSError("down")] * 3
    async with running(world.supervisor):
        session = await world.supervisor.session()
        await world.end(session, after_s=8.0)
        await world.supervisor.session(after=session)

    assert world.reports[-1] == (4, 8.0, "cut")


async def test_a_session_that_lived_longer_than_the_longest_delay_resets_the_back_off(world):
    world.failures = [OSError("down")] * 3
    async with running(world.supervisor):
        session = await world.supervisor.session()
        await world.end(session, after_s=8.1)
        await world.supervisor.session(after=session)

    assert world.reports[-1] == (1, 1.0, "cut")


async def test_a_session_may_raise_what_ended_it(world):
    async with running(world.supervisor):
        session = await world.supervisor.session()
        session.cause = PermissionError("not yours")
        await world.end(session)
        await world.supervisor.session(after=session)

    assert "not yours" in world.reports[0][2]


async def test_a_waiter_whose_session_ends_before_it_looks_gets_the_next_one(world):
    world.stillborn = 1
    async with running(world.supervisor):
        session = await world.supervisor.session()

    stillborn, next_one = world.sessions
    assert stillborn.closed == 1
    assert session is next_one


async def test_a_cancellation_that_nobody_asked_for_is_a_failure_like_any_other(world):
    world.failures = [asyncio.CancelledError()]
    async with running(world.supervisor):
        await world.supervisor.session()

    assert world.reports == [(1, 1.0, "fake: the broker fell silent, or the connection was closed")]


async def test_a_stop_while_a_session_is_being_closed_waits_for_the_close(world):
    async with running(world.supervisor):
        session = await world.supervisor.session()
        session.may_close.clear()
        session.ended.set()
        await session.was_closed.wait()

        stopping = asyncio.create_task(world.supervisor.stop())
        await asyncio.sleep(0)
        session.may_close.set()
        await stopping

    assert session.is_closed


async def test_a_cancelled_waiter_disturbs_nobody(world):
    world.may_open.clear()
    async with running(world.supervisor):
        impatient = asyncio.create_task(world.supervisor.session())
        patient = asyncio.create_task(world.supervisor.session())
        await world.opening.wait()
        impatient.cancel()
        world.may_open.set()

        assert await patient is world.supervisor.current


async def test_stop_while_opening_ends_the_run(world):
    world.may_open.clear()
    async with running(world.supervisor) as run:
        await world.opening.wait()
        await world.supervisor.stop()

        assert await run is None
    assert world.sessions == []


async def test_stop_during_the_back_off_ends_the_run(world):
    world.failures = [OSError("down")]
    world.may_wake.clear()
    async with running(world.supervisor) as run:
        await world.asleep.wait()
        await world.supervisor.stop()

        assert await run is None


async def test_stop_closes_the_live_session(world):
    async with running(world.supervisor) as run:
        session = await world.supervisor.session()
        await world.supervisor.stop()

        assert await run is None
        assert session.closed == 1
        assert world.supervisor.current is None


async def test_stop_may_be_called_twice_and_at_the_same_time(world):
    async with running(world.supervisor):
        session = await world.supervisor.session()
        await asyncio.gather(world.supervisor.stop(), world.supervisor.stop())
        await world.supervisor.stop()

    assert session.closed == 1


async def test_stop_before_the_run_began_is_not_lost(world):
    await world.supervisor.stop()

    await world.supervisor.run()

    assert not world.opening.is_set()


async def test_stop_right_after_the_start_is_not_lost(world):
    run = asyncio.create_task(world.supervisor.run())
    await asyncio.sleep(0)
    await world.supervisor.stop()

    assert await run is None
    assert world.supervisor.current is None


async def test_who_waits_when_it_stops_is_told_so(world):
    world.may_open.clear()
    async with running(world.supervisor):
        waiter = asyncio.create_task(world.supervisor.session())
        await world.opening.wait()
        await world.supervisor.stop()

        with pytest.raises(BrokerUnavailable, match="the fake has been stopped"):
            await waiter


async def test_who_asks_again_and_again_after_the_end_leaves_the_others_their_turn(world):
    await world.supervisor.stop()
    turns = 0

    async def ask() -> None:
        while turns < 100:
            with contextlib.suppress(BrokerUnavailable):
                await world.supervisor.session()

    asking = asyncio.create_task(ask())
    while not asking.done():
        turns += 1
        await asyncio.sleep(0)

    assert turns >= 100


async def test_cancelling_the_run_closes_the_session_and_stays_a_cancellation(world):
    run = asyncio.create_task(world.supervisor.run())
    session = await world.supervisor.session()
    run.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
    assert session.closed == 1
    with pytest.raises(BrokerUnavailable, match="the fake has been cancelled"):
        await world.supervisor.session()


async def test_a_stop_that_the_driver_turns_into_an_error_still_stops(world):
    async def open_badly() -> FakeSession:
        world.opening.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("lost") from None

    supervisor = Supervisor(name="fake", open=open_badly)
    async with running(supervisor) as run:
        await world.opening.wait()
        await supervisor.stop()

        assert await run is None


async def test_a_stop_that_the_driver_keeps_to_itself_still_stops_and_closes_what_was_opened():
    opening, session = asyncio.Event(), FakeSession()

    async def open_in_spite_of_all():
        opening.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return session

    supervisor = Supervisor(name="fake", open=open_in_spite_of_all)
    running = asyncio.create_task(supervisor.run())
    await opening.wait()
    async with asyncio.timeout(5):
        await supervisor.stop()
        await running

    assert session.is_closed


async def test_a_fault_in_the_reporting_wakes_the_waiters(world):
    def broken(attempt, delay_s, cause):
        raise ZeroDivisionError

    world.failures = [OSError("down")]
    supervisor = Supervisor(name="fake", open=world.open, on_failure=broken)
    async with running(supervisor) as run:
        with pytest.raises(BrokerUnavailable, match="the fake has died of ZeroDivisionError"):
            await supervisor.session()
        with pytest.raises(ZeroDivisionError):
            await run


async def test_a_requested_cancellation_passes_through_the_translation_of_errors():
    async def wait() -> None:
        with broker_errors("waiting"):
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
