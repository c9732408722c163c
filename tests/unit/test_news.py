"""News of what was cleared: what a batch is worth telling, when it is told, and what the event says."""

import asyncio
import contextlib
import json

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from configcache.events import MOST_ASSOCIATES, ConfigurationCacheCleared, binding_key, routing_key
from configcache.retry import RetryPolicy
from configcache_worker.core.coalesce import coalesce
from configcache_worker.core.news import news_of
from configcache_worker.core.ports import News, Scope
from configcache_worker.rabbitmq.news import PORTION, RabbitAnnouncer, event_of, merged
from tests.unit.rig import FakeSession, Rig, everybody, one, refuse, row, running
from tests.waiting import eventually


def scopes(*wanted):
    deliveries = FakeSession().deliveries(*(b"" for _ in wanted))
    return coalesce(zip(deliveries, (Scope(*scope) for scope in wanted), strict=True))


def test_a_batch_makes_one_piece_of_news_for_each_application_and_instance():
    group = scopes(("W", "Web", 1), ("W", "Web", 2), ("W", "Web", 2), ("W", "Other", 1), ("M", "Web", None))

    assert news_of(group, rows=10) == [
        News("M", "Web", associates=None, rows=None, commands=1),
        News("W", "Other", associates=frozenset({1}), rows=None, commands=1),
        News("W", "Web", associates=frozenset({1, 2}), rows=None, commands=3),
    ]


def test_a_clear_for_all_counts_the_commands_it_absorbed_and_names_nobody():
    group = scopes(("W", "Web", 1), ("W", "Web", None), ("W", "Web", 2))

    assert news_of(group, rows=7) == [News("W", "Web", associates=None, rows=7, commands=3)]


@pytest.mark.parametrize(
    ("earlier", "later", "both"),
    [
        (
            News("W", "Web", frozenset({1}), 2, 1),
            News("W", "Web", frozenset({2}), 3, 2),
            (frozenset({1, 2}), 5, 3),
        ),
        (News("W", "Web", None, 2, 1), News("W", "Web", frozenset({2}), 3, 2), (None, 5, 3)),
        (News("W", "Web", frozenset({1}), None, 1), News("W", "Web", None, 3, 2), (None, None, 3)),
    ],
    ids=["named", "all, then named", "named, then all"],
)
def test_news_that_waits_is_merged(earlier, later, both):
    assert merged(earlier, later) == News("W", "Web", *both)


def test_news_that_waits_keeps_no_more_associates_than_an_event_may_name():
    full = News("W", "Web", frozenset(range(1, MOST_ASSOCIATES + 1)), 5, 5)

    assert merged(full, News("W", "Web", frozenset({1}), 1, 1)) == full._replace(rows=6, commands=6)
    assert merged(full, News("W", "Web", frozenset({2000}), 1, 1)) == News("W", "Web", None, 6, 6)


def test_an_event_names_up_to_a_thousand_associates_and_no_more():
    few = event_of(News("W", "Web", frozenset(range(1, 1001)), 5, 1000))
    many = event_of(News("W", "Web", frozenset(range(1, 1002)), 5, 1001))

    assert few.associate_ids == tuple(range(1, 1001))
    assert many.for_all_associates
    assert many.associate_ids == ()
    assert few.concerns(1000)
    assert not few.concerns(1001)
    assert many.concerns(1001)


def test_an_event_is_read_back_as_it_was_written_and_unknown_properties_are_passed_over():
    event = event_of(News("Größe", "日本", frozenset({2**63 - 1}), None, 1))
    written = json.loads(event.encode())

    assert written == {
        "Application": "Größe",
        "Instance": "日本",
        "ForAllAssociates": False,
        "AssociateIds": [2**63 - 1],
        "Rows": None,
        "Commands": 1,
    }
    assert ConfigurationCacheCleared.model_validate_json(json.dumps(written | {"Later": 1})) == event


@pytest.mark.parametrize(
    "wrong", [{}, {"ForAllAssociates": True, "AssociateIds": [1]}], ids=["nobody", "both"]
)
def test_an_event_names_either_all_or_some(wrong):
    with pytest.raises(ValidationError, match="either ForAllAssociates is true"):
        ConfigurationCacheCleared.model_validate_json(
            json.dumps({"Application": "W", "Instance": "Web", "Commands": 1, **wrong})
        )


def test_keys_are_short_whatever_the_names_are_and_tell_them_apart():
    long = routing_key("a." * 127, "\U0001d54f" * 254)

    assert long.count(".") == 2
    assert len(long) == 8 + 16 + 1 + 16
    assert routing_key("a", "bc") != routing_key("ab", "c")
    assert routing_key("WebClient", "Web") == "cleared.2cbf9520b29b3f1c.2975104784a401e3"
    assert binding_key() == "cleared.*.*"
    assert binding_key("W") == routing_key("W", "Web").rpartition(".")[0] + ".*"


class Remembering:
    """An announcer that remembers what it was told."""

    def __init__(self):
        self.told = []

    def announce(self, news):
        self.told += news


async def test_what_is_cleared_is_told_after_the_commit_and_nothing_before():
    announcer = Remembering()
    rig = Rig(announcer=announcer)
    async with running(rig):
        rig.table.rows = {row(1), row(2)}
        rig.table.fails = refuse("57P01")
        rig.receive(one(1))
        await eventually(lambda: "database" in rig.pipeline.troubles())
        assert announcer.told == []

        rig.table.fails = lambda scopes, limit: None
        await rig.settled()
        rig.receive(everybody())
        await rig.settled()

    assert announcer.told == [
        News("WebClient", "Web", frozenset({1}), rows=1, commands=1),
        News("WebClient", "Web", None, rows=1, commands=1),
    ]


class SilentOnce:
    """A session of an announcer that confirms everything, but for the first time of one piece of news."""

    def __init__(self, silent):
        self.silent, self.published = silent, []

    async def publish(self, body, properties, **address):
        instance = json.loads(body)["Instance"]
        self.published.append(instance)
        if instance == self.silent:
            self.silent = None
            await asyncio.Event().wait()

    async def end_if_mute(self, after_s):
        pass

    async def wait_ended(self):
        await asyncio.Event().wait()

    async def close(self):
        pass


@contextlib.asynccontextmanager
async def announcing(monkeypatch, session):
    async def open_session(_):
        return session

    monkeypatch.setattr(RabbitAnnouncer, "_open_session", open_session)
    announcer = RabbitAnnouncer(
        url="amqp://unused/",
        policy=RetryPolicy(longest_s=0.01),
        connect_timeout_s=1,
        heartbeat_s=10,
        confirm_timeout_s=0.2,
    )
    running = asyncio.create_task(announcer.run())
    yield announcer
    await announcer.flush()
    await announcer.stop()
    await running


async def test_what_was_confirmed_in_a_portion_that_was_not_is_not_published_again(monkeypatch):
    session = SilentOnce("7")
    everybody = [str(number) for number in range(2 * PORTION + 1)]
    async with announcing(monkeypatch, session) as announcer:
        announcer.announce([News("W", instance, None, 1, 1) for instance in everybody])
        await eventually(lambda: len(session.published) > len(everybody))

    assert sorted(session.published) == sorted([*everybody, "7"])


async def test_news_on_its_way_counts_as_untold_until_it_is_confirmed(monkeypatch):
    with capture_logs() as logs:
        async with announcing(monkeypatch, SilentOnce("Web")) as announcer:
            announcer.announce([News("W", "Web", None, 1, 1), News("W", "Test", None, 1, 1)])
            await announcer.flush()

    assert [line["count"] for line in logs if line["event"] == "news.untold"] == [1]
