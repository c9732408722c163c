from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import re
import time
import uuid

import aio_pika
import pytest
from yarl import URL

from configcache import wire
from configcache.command import ClearConfigurationCache
from configcache.connection import DRIVER_LOGGERS, addresses, connect
from configcache.errors import NotAllPublished
from configcache.publisher import BrokerUnavailable, Publisher, Refused, Unroutable
from configcache.retry import Retries, RetryPolicy
from configcache.topology import COMMAND_QUEUE, PRODUCER_PERMISSIONS, WORKER_PERMISSIONS
from tests.commands import channel_to, declare, published
from tests.proxy import Proxy
from tests.users import user
from tests.waiting import eventually

NOWHERE = "amqp://127.0.0.1:1/"
COMMAND = ClearConfigurationCache.for_associate("WebClient", "Web", 42)


@pytest.fixture
async def broker_url(vhost):
    """A virtual host with the topology on it."""
    await declare(vhost)
    return vhost


# The good case


async def test_a_published_command_is_in_the_queue_with_the_contracts_properties(broker_url):
    before_ms = time.time_ns() // 1_000_000
    async with Publisher(url=broker_url, app_id="config-editor") as publisher:
        await publisher.publish(COMMAND)
    after_ms = time.time_ns() // 1_000_000

    (message,) = await published(broker_url)
    assert message.body == wire.encode(COMMAND)
    assert wire.decode(message.body, wire.Properties(message.content_type, None, message.type)) == COMMAND
    assert message.content_type == "application/json"
    assert message.type == "ClearConfigurationCache"
    assert message.content_encoding is None
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.app_id == "config-editor"
    assert uuid.UUID(message.message_id).version == 4
    assert before_ms <= message.headers["published-at"] <= after_ms


async def test_many_tasks_publish_at_once_each_with_an_id_of_its_own(broker_url):
    commands = [ClearConfigurationCache.for_associate("A", "B", number) for number in range(1, 501)]
    async with Publisher(url=broker_url, timeout_s=20) as publisher:
        await asyncio.gather(*(publisher.publish(command) for command in commands))

    messages = await published(broker_url)
    assert {wire.decode(message.body) for message in messages} == set(commands)
    assert len({message.message_id for message in messages}) == len(messages) == 500


async def test_the_rights_of_a_producer_are_enough(broker_url, rabbitmq):
    with user(rabbitmq, broker_url, PRODUCER_PERMISSIONS) as url:
        async with Publisher(url=url) as publisher:
            await publisher.publish(COMMAND)

    assert len(await published(broker_url)) == 1


async def test_many_commands_are_published_over_one_channel_a_few_at_a_time(broker_url):
    commands = [ClearConfigurationCache.for_associate("A", "B", number) for number in range(1, 301)]
    taken = 0

    def counted():
        nonlocal taken
        for command in commands:
            taken += 1
            yield command

    async with Proxy(broker_url) as line, Publisher(url=line.url, max_in_flight=7) as publisher:
        await publisher.publish(COMMAND)
        line.freeze()
        publishing = asyncio.create_task(publisher.publish_many(counted()))
        await eventually(lambda: line.held_bytes)
        assert taken <= 7
        line.thaw()
        await publishing
        assert line.connections == 1

    assert {wire.decode(message.body) for message in await published(broker_url)} == {COMMAND, *commands}


async def test_when_many_commands_cannot_be_read_to_the_end_no_lane_is_left_behind():
    def broken():
        yield COMMAND
        raise ZeroDivisionError

    async with Publisher(url=NOWHERE, timeout_s=60) as publisher:
        with pytest.raises(ZeroDivisionError):
            await publisher.publish_many(broken())

        assert "publish_many" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_to_read_what_is_not_tried_any_more_leaves_others_their_turn():
    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turns = 0
    counting = asyncio.create_task(count_turns())
    async with Publisher(url=NOWHERE, timeout_s=0.05, max_in_flight=1) as publisher:

        def commands():
            nonlocal turns
            yield COMMAND
            turns = 0
            yield from [COMMAND] * 1000

        with pytest.raises(NotAllPublished, match="1001 of 1001"):
            await publisher.publish_many(commands())
    counting.cancel()

    assert turns >= 1000


async def test_waiting_for_a_connection_that_nobody_opens_is_an_error():
    with pytest.raises(RuntimeError, match="within `async with`"):
        await Publisher(url=NOWHERE).wait_connected()


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {}),
        ({"traceparent": TRACEPARENT}, {"traceparent": TRACEPARENT}),
        (
            {"traceparent": TRACEPARENT, "tracestate": "vendor=1"},
            {"traceparent": TRACEPARENT, "tracestate": "vendor=1"},
        ),
        ({"traceparent": TRACEPARENT, "tracestate": "line\nbreak"}, {"traceparent": TRACEPARENT}),
        ({"traceparent": "00-1-1-01", "tracestate": "vendor=1"}, {}),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, {}),
        ({"tracestate": "vendor=1"}, {}),
    ],
)
async def test_a_trace_goes_with_the_message_if_it_is_one(broker_url, given, sent):
    async with Publisher(url=broker_url) as publisher:
        await publisher.publish(COMMAND, **given)

    (message,) = await published(broker_url)
    assert {name: value for name, value in message.headers.items() if name.startswith("trace")} == sent


# What the broker refuses


async def test_of_many_commands_those_that_were_refused_are_named(vhost):
    async with channel_to(vhost) as channel:
        await channel.declare_exchange("configuration", "direct", durable=True)
        queue = await channel.declare_queue(
            COMMAND_QUEUE, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await queue.bind("configuration", COMMAND_QUEUE)
    commands = [ClearConfigurationCache.for_associate("A", "B", number) for number in range(1, 11)]
    async with Publisher(url=vhost, max_in_flight=1) as publisher:
        with pytest.raises(NotAllPublished, match=r"9 of 10 commands.*nack") as caught:
            await publisher.publish_many(commands)

    confirmed = set(commands) - {command for command, _ in caught.value.failed}
    assert {type(error) for _, error in caught.value.failed} == {Refused}
    assert {wire.decode(message.body) for message in await published(vhost)} == confirmed


async def test_without_a_bound_queue_publishing_fails_as_unroutable(broker_url):
    async with channel_to(broker_url) as channel:
        await channel.queue_delete(COMMAND_QUEUE)
    async with Publisher(url=broker_url) as publisher:
        results = await asyncio.gather(
            *(publisher.publish(COMMAND) for _ in range(20)), return_exceptions=True
        )

    assert {type(result) for result in results} == {Unroutable}
    assert "configcache topology" in str(results[0])


async def test_without_the_exchange_every_publish_is_refused_with_what_to_do(vhost):
    async with Publisher(url=vhost) as publisher:
        for _ in range(3):
            with pytest.raises(Refused, match=r"no exchange 'configuration'.*configcache topology"):
                await publisher.publish(COMMAND)


async def test_a_refusal_that_outlasts_the_timeout_stays_a_refusal(vhost):
    async with Publisher(url=vhost, timeout_s=0.5) as publisher:
        with pytest.raises(Refused):
            await publisher.publish(COMMAND)
        deadline = time.monotonic() + 20
        error: Exception | None = None
        while "no connection within" not in str(error):
            assert time.monotonic() < deadline
            with pytest.raises(Refused, match="no exchange") as caught:
                await publisher.publish(COMMAND)
            error = caught.value


async def test_works_as_soon_as_what_was_missing_is_there(vhost):
    async with Publisher(url=vhost, timeout_s=20) as publisher:
        with pytest.raises(Refused):
            await publisher.publish(COMMAND)
        async with channel_to(vhost) as channel:
            await channel.declare_exchange("configuration", "direct", durable=True)
            queue = await channel.declare_queue(COMMAND_QUEUE, durable=True)
            await queue.bind("configuration", COMMAND_QUEUE)

            await publisher.publish(COMMAND)

    assert len(await published(vhost)) == 1


async def test_a_user_without_the_right_to_write_is_refused(broker_url, rabbitmq):
    with user(rabbitmq, broker_url, WORKER_PERMISSIONS) as url:
        async with Publisher(url=url) as publisher:
            with pytest.raises(Refused, match=r"'configuration'.*needs write permission on that exchange"):
                await publisher.publish(COMMAND)


async def test_a_full_queue_refuses(vhost):
    async with channel_to(vhost) as channel:
        await channel.declare_exchange("configuration", "direct", durable=True)
        queue = await channel.declare_queue(
            COMMAND_QUEUE, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await queue.bind("configuration", COMMAND_QUEUE)
    async with Publisher(url=vhost) as publisher:
        await publisher.publish(COMMAND)

        with pytest.raises(Refused, match="nack"):
            await publisher.publish(COMMAND)


async def test_a_channel_that_only_refuses_is_replaced_and_refusals_stay_refusals(vhost):
    async with channel_to(vhost) as channel:
        await channel.declare_exchange("configuration", "direct", durable=True)
        full = {"x-max-length": 0, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(COMMAND_QUEUE, durable=True, arguments=full)
        await queue.bind("configuration", COMMAND_QUEUE)
    quick = RetryPolicy(longest_s=0.2)
    async with (
        Proxy(vhost) as line,
        Publisher(url=line.url, reconnect=quick) as publisher,
        asyncio.timeout(10),
    ):
        while line.connections < 3:
            with pytest.raises(Refused, match="nack"):
                await publisher.publish(COMMAND)


# The broker away


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": "s3cret"}, "user name or password refused"),
        ({"path": "/no-such-vhost"}, "no vhost 'no-such-vhost'"),
        ({"port": 1}, ": connection refused$"),
    ],
    ids=["wrong password", "no such vhost", "nobody listens"],
)
async def test_says_why_there_is_no_connection_and_never_the_password(vhost, changes, words, caplog):
    url = URL(vhost)
    for part, value in changes.items():
        url = getattr(url, f"with_{part}")(value)
    async with Publisher(url=str(url), timeout_s=1) as publisher:
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=words) as caught:
            await publisher.publish(COMMAND)

        assert time.monotonic() - began_s < 3
        assert "s3cret" not in str(caught.value) + repr(publisher) + caplog.text


async def test_a_server_that_never_answers_is_no_connection():
    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Publisher(url=f"amqp://127.0.0.1:{port}/", timeout_s=0.2) as publisher:
            with pytest.raises(BrokerUnavailable, match=r"^no connection within 0\.2 s") as caught:
                await publisher.publish(COMMAND)

    assert "confirm" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:5672",
        "http://x/",
        "amqp://",
        "amqp://one,,two/",
        "amqp://u:s3cret@h:99999/",
        "amqp://u:s3cret@one,two:99999/",
    ],
)
def test_a_url_that_is_none_is_an_error_at_once(url):
    with pytest.raises(ValueError, match="broker's URL") as caught:
        Publisher(url=url)

    assert "s3cret" not in str(caught.value)


# Several hosts


@pytest.mark.parametrize(
    ("url", "each"),
    [
        ("amqp://u:p@one/v", ["amqp://u:p@one/v"]),
        ("amqp://u:p,q@one:1,two/v", ["amqp://u:p,q@one:1/v", "amqp://u:p,q@two/v"]),
        (
            "amqps://one,[::1]:2?cafile=/a,b/c",
            ["amqps://one/?cafile=/a,b/c", "amqps://[::1]:2/?cafile=/a,b/c"],
        ),
        ("amqp://one,two/a,b", ["amqp://one/a,b", "amqp://two/a,b"]),
    ],
)
def test_the_url_of_a_cluster_is_one_for_each_host(url, each):
    assert addresses(url) == [URL(one) for one in each]


async def test_any_host_that_answers_will_do(broker_url):
    there = URL(broker_url)
    several = broker_url.replace(there.authority, f"{there.authority},127.0.0.1:1,[::1]:1")

    for _ in range(5):
        async with Publisher(url=several) as publisher:
            await publisher.publish(COMMAND)

    assert len(await published(broker_url)) == 5


async def test_a_silent_host_leaves_time_for_the_others(broker_url):
    there = URL(broker_url)
    async with Proxy(broker_url) as line:
        line.freeze()
        several = broker_url.replace(there.authority, f"{there.authority},127.0.0.1:{line.port}")

        for _ in range(5):
            async with Publisher(url=several, timeout_s=2) as publisher:
                await publisher.publish(COMMAND)

    assert len(await published(broker_url)) == 5


async def test_where_no_host_answers_each_is_named_with_its_reason(broker_url):
    there = URL(broker_url)
    wrong = broker_url.replace(there.authority, f"user:s3cret@127.0.0.1:1,{there.host}:{there.port}")

    with pytest.raises(BrokerUnavailable) as caught:
        await connect(wrong, name="test", timeout_s=5, heartbeat_s=10)

    text = str(caught.value)
    assert "cannot connect to the broker at 127.0.0.1:1: connection refused" in text
    assert f"cannot connect to the broker at {there.host}:{there.port}: user name or password refused" in text
    assert "s3cret" not in text


async def test_hosts_are_tried_in_an_order_of_chance():
    orders = set()
    for seed in range(20):
        with pytest.raises(BrokerUnavailable) as caught:
            await connect(
                "amqp://127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/",
                name="test",
                timeout_s=5,
                heartbeat_s=10,
                random=random.Random(seed),
            )
        orders.add(tuple(re.findall(r"127\.0\.0\.1:(\d)", str(caught.value))))

    assert {frozenset(order) for order in orders} == {frozenset("123")}
    assert {order[0] for order in orders} == set("123")


# A connection lost


async def test_what_is_in_flight_when_the_connection_is_cut_goes_over_the_next_one(broker_url):
    async with Proxy(broker_url) as line, Publisher(url=line.url, timeout_s=20) as publisher:
        await publisher.publish(COMMAND)
        line.freeze()
        in_flight = [asyncio.create_task(publisher.publish(COMMAND)) for _ in range(50)]
        await eventually(lambda: line.held_bytes)
        line.cut()
        line.thaw()

        await asyncio.gather(*in_flight)

    messages = await published(broker_url)
    assert len({message.message_id for message in messages}) == len(messages) >= 51


async def test_a_connection_that_died_unnoticed_costs_no_error(broker_url):
    async with Proxy(broker_url) as line, Publisher(url=line.url, timeout_s=20) as publisher:
        for _ in range(5):
            await publisher.publish(COMMAND)
            line.cut()

    assert len(await published(broker_url)) >= 5


async def test_a_frozen_broker_costs_the_timeout_and_no_more(broker_url):
    async with Proxy(broker_url) as line, Publisher(url=line.url, timeout_s=0.5) as publisher:
        await publisher.publish(COMMAND)
        line.freeze()
        began_s = time.monotonic()
        results = await asyncio.gather(
            *(publisher.publish(COMMAND) for _ in range(50)), return_exceptions=True
        )
        took_s = time.monotonic() - began_s
        line.thaw()

        assert {type(result) for result in results} == {BrokerUnavailable}
        assert took_s < 2
        await publisher.publish(COMMAND)


async def test_a_frozen_broker_costs_many_commands_the_time_of_one(broker_url):
    commands = [ClearConfigurationCache.for_associate("A", "B", number) for number in range(1, 1001)]
    async with (
        Proxy(broker_url) as line,
        Publisher(url=line.url, timeout_s=0.5, max_in_flight=10) as publisher,
    ):
        await publisher.publish(COMMAND)
        line.freeze()
        began_s = time.monotonic()
        with pytest.raises(NotAllPublished) as caught:
            await publisher.publish_many(commands)
        took_s = time.monotonic() - began_s
        line.thaw()

    assert took_s < 2
    assert {command for command, _ in caught.value.failed} == set(commands)
    assert {type(error) for _, error in caught.value.failed} == {BrokerUnavailable}


async def test_what_waits_for_its_turn_waits_within_its_timeout(broker_url):
    async with (
        Proxy(broker_url) as line,
        Publisher(url=line.url, timeout_s=0.5, max_in_flight=2) as publisher,
    ):
        await publisher.publish(COMMAND)
        line.freeze()
        began_s = time.monotonic()
        results = await asyncio.gather(
            *(publisher.publish(COMMAND) for _ in range(50)), return_exceptions=True
        )
        took_s = time.monotonic() - began_s
        line.thaw()

        assert {type(result) for result in results} == {BrokerUnavailable}
        assert took_s < 2
        await publisher.publish(COMMAND)


async def test_a_broker_that_is_frozen_from_the_start_costs_the_timeout_and_no_more(vhost):
    async with Proxy(vhost) as line, Publisher(url=line.url, timeout_s=0.3) as publisher:
        line.freeze()
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await publisher.publish(COMMAND)

        assert time.monotonic() - began_s < 1.5


async def test_a_broker_blocked_by_an_alarm_costs_the_timeout_and_no_more(broker_url, rabbitmq):
    async with Proxy(broker_url) as line, Publisher(url=line.url, timeout_s=1) as publisher:
        await publisher.publish(COMMAND)
        await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "0")
        try:
            for _ in range(3):
                with pytest.raises(BrokerUnavailable):
                    await publisher.publish(COMMAND)
        finally:
            await asyncio.to_thread(rabbitmq.ctl, "set_vm_memory_high_watermark", "absolute", "1GB")

        await publisher.publish(COMMAND)
        assert line.connections == 1


async def test_a_line_that_a_firewall_has_forgotten_is_given_up_before_heartbeats_tell(broker_url):
    async with Proxy(broker_url) as line, Publisher(url=line.url, timeout_s=1) as publisher:
        await publisher.publish(COMMAND)
        line.forget()
        with pytest.raises(BrokerUnavailable, match="did not confirm the command within 1 s"):
            await publisher.publish(COMMAND)

        async with asyncio.timeout(15):
            while (await asyncio.gather(publisher.publish(COMMAND), return_exceptions=True))[0] is not None:
                pass

    assert len(await published(broker_url)) == 2


async def test_works_again_after_the_broker_has_been_restarted(broker_url, rabbitmq):
    async with Publisher(url=broker_url, timeout_s=1) as publisher:
        await publisher.publish(COMMAND)
        await asyncio.to_thread(rabbitmq.stop)
        try:
            with pytest.raises(BrokerUnavailable, match="no connection"):
                await publisher.publish(COMMAND)
        finally:
            await asyncio.to_thread(rabbitmq.start)

        async with asyncio.timeout(40):
            while (await asyncio.gather(publisher.publish(COMMAND), return_exceptions=True))[0] is not None:
                pass

    assert len(await published(broker_url)) >= 2


async def test_starts_before_its_broker(broker_url):
    async with Proxy(broker_url) as line:
        line.refuse()
        async with Publisher(url=line.url, timeout_s=20) as publisher:
            publishing = asyncio.create_task(publisher.publish(COMMAND))
            await eventually(lambda: line.refused)
            line.accept()
            await publishing

    assert len(await published(broker_url)) == 1


# Trying again is the caller's choice


async def test_with_retries_a_publish_outlasts_a_broker_that_is_away(broker_url):
    quick = RetryPolicy(first_s=0.01, longest_s=0.05)
    async with Proxy(broker_url) as line:
        line.refuse()
        async with Publisher(
            url=line.url, timeout_s=0.2, retries=Retries(attempts=100, delays=quick)
        ) as publisher:
            publishing = asyncio.create_task(publisher.publish(COMMAND))
            await eventually(lambda: line.refused > 3)
            line.accept()
            await publishing

    assert await published(broker_url)  # once for each attempt that arrived, confirmed in time or not


async def test_retries_end_with_the_last_error(vhost):
    quick = RetryPolicy(first_s=0.01, longest_s=0.05)
    async with Publisher(url=vhost, retries=Retries(attempts=3, delays=quick)) as publisher:
        with pytest.raises(Refused, match="no exchange 'configuration'"):
            await publisher.publish(COMMAND)


async def test_a_missing_queue_is_not_waited_for_unless_that_is_asked_for(broker_url):
    async with channel_to(broker_url) as channel:
        await channel.queue_delete(COMMAND_QUEUE)
    patient = Retries(attempts=1000, delays=RetryPolicy(first_s=0.01, longest_s=0.05))
    async with Publisher(url=broker_url, retries=patient) as publisher:
        with pytest.raises(Unroutable):
            await publisher.publish(COMMAND)
    asked_for = Retries(attempts=1000, delays=patient.delays, on=(Unroutable,))
    async with Publisher(url=broker_url, retries=asked_for) as publisher:
        publishing = asyncio.create_task(publisher.publish(COMMAND))
        await declare(broker_url)
        await publishing

    assert len(await published(broker_url)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timeout_s": 0}, "timeout_s must be positive"),
        ({"timeout_s": float("nan")}, "timeout_s must be positive"),
        ({"max_in_flight": 0}, "max_in_flight must be at least 1"),
    ],
)
def test_numbers_that_make_no_sense_are_an_error_at_once(arguments, words):
    with pytest.raises(ValueError, match=words):
        Publisher(url="amqp://localhost/", **arguments)


def test_no_attempt_at_all_is_an_error_at_once():
    with pytest.raises(ValueError, match="attempts must be at least 1, not 0"):
        Retries(attempts=0)


# Its life


async def test_publishing_outside_of_the_context_is_a_mistake_told_at_once(vhost):
    with pytest.raises(RuntimeError, match="async with"):
        await Publisher(url=vhost).publish(COMMAND)


@pytest.mark.parametrize("retries", [Retries(), Retries(attempts=1000)], ids=["once", "with retries"])
async def test_publishing_after_the_end_fails_at_once(vhost, retries):
    publisher = Publisher(url=vhost, retries=retries)
    async with publisher:
        pass

    with pytest.raises(BrokerUnavailable, match="stopped"):
        await publisher.publish(COMMAND)


class Broken(RetryPolicy):
    """Ends whoever asks it, as an error in our own code would."""

    def delay_s(self, attempt):
        raise ZeroDivisionError


@pytest.mark.parametrize("retries", [Retries(), Retries(attempts=1000)], ids=["once", "with retries"])
async def test_a_publisher_whose_background_task_has_died_says_so_at_once(retries):
    publisher = Publisher(url=NOWHERE, retries=retries, reconnect=Broken())
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(ZeroDivisionError))  # on leaving: the mistake is hidden from nobody
        await stack.enter_async_context(publisher)
        for _ in range(2):
            with pytest.raises(BrokerUnavailable, match="the publisher has died of ZeroDivisionError"):
                await publisher.publish(COMMAND)


async def test_who_publishes_again_and_again_after_the_end_leaves_the_others_their_turn():
    async def publish():
        while turns < 100:
            with contextlib.suppress(BrokerUnavailable):
                await publisher.publish(COMMAND)

    turns = 0
    async with Publisher(url=NOWHERE) as publisher:
        pass
    publishing = asyncio.create_task(publish())
    while not publishing.done():
        turns += 1
        await asyncio.sleep(0)

    assert turns >= 100


async def test_a_cancelled_publish_is_cancelled_and_the_next_one_works(broker_url):
    async with Proxy(broker_url) as line, Publisher(url=line.url) as publisher:
        await publisher.publish(COMMAND)
        line.freeze()
        publishing = asyncio.create_task(publisher.publish(COMMAND))
        await eventually(lambda: line.held_bytes)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        line.thaw()

        await publisher.publish(COMMAND)


async def test_no_task_is_left_and_nobody_sees_a_traceback(broker_url, caplog):
    for logger in DRIVER_LOGGERS:
        caplog.set_level(logging.CRITICAL + 1, logger)
    before = asyncio.all_tasks()
    async with Proxy(broker_url) as line, Publisher(url=line.url, timeout_s=20) as publisher:
        for _ in range(3):
            await publisher.publish(COMMAND)
            line.cut()
        await publisher.publish(COMMAND)
    async with asyncio.timeout(10):
        while leftovers := asyncio.all_tasks() - before:
            await asyncio.wait(leftovers)
    gc.collect()

    assert [record.name for record in caplog.records if record.exc_info or record.name == "asyncio"] == []
    assert [record for record in caplog.records if record.levelno > logging.WARNING] == []
