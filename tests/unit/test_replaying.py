"""A replay: publish, confirm, take out, one after the other, whatever fails in between."""

from __future__ import annotations

import asyncio

import pytest

from configcache import BrokerUnavailable, Unroutable
from configcache_worker.letters.mending import Mending, Refusal
from configcache_worker.letters.replaying import Pace, Replaying
from configcache_worker.letters.selection import Selection
from tests.letters import FOR_42, NO_ASSOCIATE, a_letter


class Desk:
    """A letter box and a publisher in one, which notes what is done in which order."""

    def __init__(self, *letters):
        self.letters = letters
        self.done = []
        self.fails = {}
        self.reported = []

    async def __aiter__(self):
        for letter in self.letters:
            yield letter

    async def check(self):
        self._maybe_fail("check")

    async def take_out(self, letter):
        self._maybe_fail("take out")
        self.done.append(f"{letter.tag} out")

    async def publish(self, body, properties, *, message_id, exchange, routing_key):
        self._maybe_fail("publish")
        self.done.append(f"published to {exchange}")

    def _maybe_fail(self, step):
        if step in self.fails:
            raise self.fails[step]

    def replaying(self, **options):
        options.setdefault("rate_per_s", 1e9)
        return Replaying(self, self.publish, self.reported.append, **options)


def letters(*bodies, **options):
    return [
        a_letter(body, message_id=str(tag), **options)._replace(tag=tag) for tag, body in enumerate(bodies, 1)
    ]


async def test_no_letter_is_begun_before_the_last_one_is_out():
    desk = Desk(*letters(FOR_42, FOR_42))

    replaying = desk.replaying()
    await replaying.run()

    assert desk.done == ["published to configuration", "1 out", "published to configuration", "2 out"]
    assert (replaying.tally.replayed, replaying.tally.refused) == (2, 0)


async def test_what_is_refused_is_reported_and_stays():
    desk = Desk(*letters(NO_ASSOCIATE, FOR_42))

    replaying = desk.replaying()
    await replaying.run()

    assert desk.done == ["published to configuration", "2 out"]
    assert [isinstance(outcome, Refusal) for outcome in desk.reported] == [True, False]
    assert (replaying.tally.replayed, replaying.tally.refused) == (1, 1)


async def test_what_is_not_meant_is_left_alone():
    desk = Desk(*letters(FOR_42, FOR_42, FOR_42))

    await desk.replaying(selection=Selection(frozenset({"2"}))).run()

    assert desk.done == ["published to configuration", "2 out"]


async def test_no_more_are_replayed_than_asked_for():
    desk = Desk(*letters(FOR_42, NO_ASSOCIATE, FOR_42))

    await desk.replaying(most=2).run()

    assert len(desk.reported) == 2


async def test_without_a_publisher_nothing_is_done():
    desk = Desk(*letters(FOR_42, NO_ASSOCIATE))

    replaying = Replaying(desk, None, desk.reported.append, mending=Mending({"AssociateId": 7}))
    await replaying.run()

    assert desk.done == []
    assert [outcome.command.associate_id for outcome in desk.reported] == [7, 7]


@pytest.mark.parametrize(
    ("step", "error", "done"),
    [
        ("check", BrokerUnavailable("gone"), []),
        ("publish", Unroutable("no queue"), []),
        ("take out", BrokerUnavailable("gone"), ["published to configuration"]),
    ],
)
async def test_whatever_fails_ends_the_run_before_the_next_letter(step, error, done):
    desk = Desk(*letters(FOR_42, FOR_42))
    desk.fails[step] = error

    with pytest.raises(type(error)):
        await desk.replaying().run()

    assert desk.done == done
    assert desk.reported == []


async def test_a_stop_while_waiting_for_the_next_turn_ends_the_run_at_once():
    desk = Desk(*letters(FOR_42, FOR_42))
    loop = asyncio.get_running_loop()
    replaying = Replaying(
        desk, desk.publish, lambda _: loop.call_later(0.01, replaying.stop), rate_per_s=0.001
    )

    await replaying.run()

    assert desk.done == ["published to configuration", "1 out"]
    assert replaying.is_stopped


def test_turns_are_as_far_apart_as_the_rate_says_and_missed_ones_are_not_made_up_for():
    pace = Pace(rate_per_s=10)

    assert [round(pace.delay_s(now_s), 3) for now_s in (0, 0, 0.15, 7, 7)] == [0, 0.1, 0.05, 0, 0.1]
