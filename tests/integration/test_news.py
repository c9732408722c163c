"""News of what was cleared, from a real worker by way of a real broker to a subscriber."""

from __future__ import annotations

import asyncio
import contextlib

import aio_pika
import pytest
from structlog.testing import capture_logs

from configcache import ClearConfigurationCache
from configcache.connection import connect
from configcache.events import ConfigurationCacheCleared, NewsSubscriber
from configcache.retry import RetryPolicy
from configcache.topology import EVENT_EXCHANGE, SUBSCRIBER_PERMISSIONS
from configcache_worker.core.ports import News
from configcache_worker.rabbitmq import news as news_module
from configcache_worker.rabbitmq.news import RabbitAnnouncer
from tests.proxy import Proxy
from tests.users import user
from tests.waiting import eventually

QUICK = RetryPolicy(longest_s=0.05)
LONG = ("a." * 127, "\U0001d54f" * 254)


class Copies:
    """A service's local copies, which remember what was dropped."""

    def __init__(self):
        self.events, self.dropped_all = [], 0

    def drop(self, event):
        self.events.append(event)

    def drop_all(self):
        self.dropped_all += 1

    @property
    def whose(self):
        return [(event.application, event.instance, event.associate_ids or "all") for event in self.events]


@pytest.fixture
async def telling(new_system):
    """A system whose worker tells what it has cleared."""
    async with new_system(worker={"publish_events": True}) as system:
        yield system


@contextlib.asynccontextmanager
async def subscribed(url, **options):
    copies = Copies()
    async with NewsSubscriber(
        url=url, on_cleared=copies.drop, drop_all=copies.drop_all, policy=QUICK, **options
    ) as subscriber:
        await eventually(lambda: subscriber.is_listening)
        yield copies


async def test_who_listens_is_told_what_was_cleared_and_whose(telling):
    await telling.fill([("WebClient", "Web", 42, "Contact"), ("WebClient", "Web", 42, "Home")])
    async with subscribed(telling.settings.broker.url) as copies:
        await telling.publish(ClearConfigurationCache.for_associate("WebClient", "Web", 42))
        await eventually(lambda: copies.events)
        await telling.publish(ClearConfigurationCache.for_all(*LONG))
        await eventually(lambda: len(copies.events) == 2)

    assert copies.events == [
        ConfigurationCacheCleared(
            application="WebClient", instance="Web", associate_ids=(42,), rows=2, commands=1
        ),
        ConfigurationCacheCleared(
            application=LONG[0], instance=LONG[1], for_all_associates=True, rows=0, commands=1
        ),
    ]
    assert copies.dropped_all == 1


async def test_who_listens_to_one_application_or_instance_hears_of_no_other(telling):
    url = telling.settings.broker.url
    async with subscribed(url, application="Mobile") as mobile, subscribed(url, instance="Web") as web:
        for application, instance in [
            ("Mobile", "Test"),
            ("WebClient", "Web"),
            ("WebClient", "Test"),
            ("Mobile", "Web"),
        ]:
            await telling.publish(ClearConfigurationCache.for_all(application, instance))
        await eventually(lambda: len(mobile.events) == len(web.events) == 2)

    assert sorted(mobile.whose) == [("Mobile", "Test", "all"), ("Mobile", "Web", "all")]
    assert sorted(web.whose) == [("Mobile", "Web", "all"), ("WebClient", "Web", "all")]


async def test_after_any_reconnect_every_local_copy_is_to_be_dropped(telling):
    async with Proxy(telling.settings.broker.url) as line, subscribed(line.url) as copies:
        assert copies.dropped_all == 1
        for times in (2, 3):
            line.cut()
            await eventually(lambda times=times: copies.dropped_all == times)
        await telling.publish(ClearConfigurationCache.for_all("WebClient", "Web"))
        await eventually(lambda: copies.events)


async def test_a_subscriber_may_be_there_before_its_broker():
    copies = Copies()
    async with NewsSubscriber(
        url="amqp://127.0.0.1:1/", on_cleared=copies.drop, drop_all=copies.drop_all, policy=QUICK
    ) as subscriber:
        await asyncio.sleep(0)
        assert not subscriber.is_listening

    assert copies.dropped_all == 0


async def test_a_callback_that_fails_does_not_end_the_news(telling, caplog):
    def fail(_):
        raise ZeroDivisionError

    heard = Copies()
    url = telling.settings.broker.url
    async with NewsSubscriber(url=url, on_cleared=fail, drop_all=heard.drop_all, policy=QUICK) as subscriber:
        await eventually(lambda: subscriber.is_listening)
        for _ in range(2):
            await telling.publish(ClearConfigurationCache.for_all("WebClient", "Web"))
            await telling.settled()
        await eventually(lambda: caplog.text.count("a local copy could not be dropped") == 2)
        assert subscriber.is_listening


async def published_to_events(url, body, **properties):
    connection = await connect(url, name="test", timeout_s=10, heartbeat_s=10)
    async with connection:
        exchange = await (await connection.channel()).get_exchange(EVENT_EXCHANGE)
        await exchange.publish(aio_pika.Message(body, **properties), "cleared.a.b")


async def test_news_that_cannot_be_read_drops_every_local_copy_and_other_events_nothing(telling):
    url = telling.settings.broker.url
    async with subscribed(url) as copies:
        await published_to_events(url, b"{", type="SomethingElse")
        await published_to_events(url, b"{")
        await eventually(lambda: copies.dropped_all == 2)

    assert copies.events == []


async def test_the_rights_of_a_subscriber_are_enough(telling, rabbitmq):
    with user(rabbitmq, telling.settings.broker.url, SUBSCRIBER_PERMISSIONS) as url:
        async with subscribed(url) as copies:
            await telling.publish(ClearConfigurationCache.for_all("WebClient", "Web"))
            await eventually(lambda: copies.events)


async def test_without_the_switch_nothing_is_told(new_system):
    async with new_system() as system, subscribed(system.settings.broker.url) as copies:
        await system.publish(ClearConfigurationCache.for_all("WebClient", "Web"))
        await system.settled()
        await published_to_events(system.settings.broker.url, b"{")
        await eventually(lambda: copies.dropped_all == 2)

    assert copies.events == []


async def test_commands_are_answered_while_news_cannot_be_told(new_system):
    options = {"start_worker": False, "worker": {"publish_events": True}, "broker": {"declare": False}}
    async with new_system(**options) as system:
        await system.fill([("WebClient", "Web", 42, "Contact")])
        await system.start_worker()
        await delete_exchange(system.settings.broker.url)
        with capture_logs() as logs:
            await system.publish(ClearConfigurationCache.for_associate("WebClient", "Web", 42))
            await system.settled()
            await eventually(lambda: any(line["event"] == "news.unavailable" for line in logs))
            assert await system.rows() == set()
            await system.stop_worker()

    assert {line["event"] for line in logs} >= {
        "batch.cleared",
        "news.unavailable",
        "news.untold",
        "worker.stopped",
    }


async def delete_exchange(url):
    connection = await connect(url, name="test", timeout_s=10, heartbeat_s=10)
    async with connection:
        await (await (await connection.channel()).get_underlay_channel()).exchange_delete(EVENT_EXCHANGE)


def news(*associates, instance="Web"):
    return News("WebClient", instance, frozenset(associates), rows=1, commands=1)


@contextlib.asynccontextmanager
async def announcing(url):
    announcer = RabbitAnnouncer(url=url, policy=QUICK, connect_timeout_s=10, heartbeat_s=10)
    running = asyncio.create_task(announcer.run())
    yield announcer
    await announcer.flush()
    await announcer.stop()
    await running


async def test_news_that_waited_for_a_broker_is_told_as_one_event_for_each_instance(system):
    url = system.settings.broker.url
    async with subscribed(url) as copies, announcing(url) as announcer:
        announcer.announce([news(1), news(9, instance="Test")])
        announcer.announce([news(2)])
        await eventually(lambda: len(copies.events) == 2)

    assert sorted(copies.whose) == [("WebClient", "Test", (9,)), ("WebClient", "Web", (1, 2))]


async def test_news_outlives_a_connection(system):
    url = system.settings.broker.url
    async with Proxy(url) as line, subscribed(url) as copies, announcing(line.url) as announcer:
        announcer.announce([news(1)])
        await eventually(lambda: copies.events)
        line.cut()
        announcer.announce([news(2)])
        await eventually(lambda: any(2 in event.associate_ids for event in copies.events))


async def test_more_than_one_portion_that_waited_for_a_broker_is_told(system):
    everybody = {str(number) for number in range(3 * news_module.PORTION + 1)}
    url = system.settings.broker.url
    async with Proxy(url) as line, subscribed(url) as copies:
        line.refuse()
        async with announcing(line.url) as announcer:
            announcer.announce([news(1, instance=instance) for instance in everybody])
            await eventually(lambda: line.refused)
            line.accept()
            await eventually(lambda: {event.instance for event in copies.events} == everybody)


async def test_what_waits_is_bounded_and_what_is_dropped_is_told_to_the_operator(monkeypatch):
    monkeypatch.setattr(news_module, "MOST_HELD", 2)
    announcer = RabbitAnnouncer(url="amqp://127.0.0.1:1/", policy=QUICK, connect_timeout_s=1, heartbeat_s=10)

    with capture_logs() as logs:
        announcer.announce([news(1, instance=name) for name in ("Web", "Test", "Web", "Third", "Fourth")])

    assert [(line["event"], line["count"]) for line in logs] == [("news.dropped", 2)]
