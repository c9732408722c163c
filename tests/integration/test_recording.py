"""The publisher for tests fails as the real one does, and is the real one but for the broker."""

from __future__ import annotations

import re

import pytest

from configcache import (
    BrokerUnavailable,
    ClearConfigurationCache,
    NotAllPublished,
    Publisher,
    Refused,
    Retries,
    RetryPolicy,
    Unroutable,
)
from configcache.recording import BlockingRecordingPublisher, Failure, RecordingPublisher
from configcache.topology import COMMAND_QUEUE, WORKER_PERMISSIONS
from tests.chaos.load import delete_queue
from tests.commands import channel_to, declare
from tests.proxy import Proxy
from tests.users import user

ALL = ClearConfigurationCache.for_all("WebClient", "Web")
SOME = [ClearConfigurationCache.for_associate("WebClient", "Web", number) for number in range(1, 11)]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# The same errors, in the same words


async def real_error(url, *, timeout_s=5.0):
    async with Publisher(url=url, timeout_s=timeout_s) as publisher:
        try:
            await publisher.publish(ALL)
        except Exception as error:
            return error
    raise AssertionError("it was published")


async def unroutable(vhost, rabbitmq):
    await declare(vhost)
    await delete_queue(vhost, COMMAND_QUEUE)
    return await real_error(vhost)


async def no_exchange(vhost, rabbitmq):
    return await real_error(vhost)


async def no_permission(vhost, rabbitmq):
    await declare(vhost)
    with user(rabbitmq, vhost, WORKER_PERMISSIONS) as url:
        return await real_error(url)


async def queue_full(vhost, rabbitmq):
    async with channel_to(vhost) as channel:
        await channel.declare_exchange("configuration", "direct", durable=True)
        queue = await channel.declare_queue(
            COMMAND_QUEUE, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        await queue.bind("configuration", COMMAND_QUEUE)
    async with Publisher(url=vhost) as publisher:
        await publisher.publish(ALL)
    return await real_error(vhost)


async def unreachable(vhost, rabbitmq):
    return await real_error("amqp://127.0.0.1:1/", timeout_s=0.5)


async def silent(vhost, rabbitmq):
    await declare(vhost)
    async with Proxy(vhost) as line, Publisher(url=line.url, timeout_s=0.5) as publisher:
        await publisher.publish(ALL)
        line.freeze()
        try:
            await publisher.publish(ALL)
        except Exception as error:
            return error
        finally:
            line.thaw()
    raise AssertionError("it was published")


def without_particulars(error):
    """The words of *error*, but for names, numbers and addresses."""
    words = re.sub(r"vhost '[^']*'", "vhost '…'", str(error))
    words = re.sub(r"user '[^']*'", "user '…'", words)
    return re.sub(r"[\d.]+ s\b|127\.0\.0\.1:\d+", "…", words)


@pytest.mark.parametrize(
    ("failure", "make_real"),
    [
        (Failure.UNROUTABLE, unroutable),
        (Failure.NO_EXCHANGE, no_exchange),
        (Failure.NO_PERMISSION, no_permission),
        (Failure.QUEUE_FULL, queue_full),
        (Failure.UNREACHABLE, unreachable),
        (Failure.SILENT, silent),
        (Failure.CONFIRM_LOST, silent),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Failure) else "",
)
async def test_it_fails_with_the_error_and_the_words_of_the_real_one(vhost, rabbitmq, failure, make_real):
    real = await make_real(vhost, rabbitmq)
    publisher = RecordingPublisher()
    publisher.open()
    publisher.fail(failure)
    with pytest.raises(type(real)) as recorded:
        await publisher.publish(ALL)

    assert type(recorded.value) is type(real)
    assert without_particulars(recorded.value) == without_particulars(real)


# The same behaviour


async def test_it_keeps_what_is_published_in_order(recording_publisher):
    await recording_publisher.publish(ALL, traceparent=TRACEPARENT)
    await recording_publisher.publish_many(SOME)

    assert recording_publisher.commands == [ALL, *SOME]
    assert recording_publisher.traces[:2] == [{"traceparent": TRACEPARENT}, {}]


@pytest.mark.parametrize("failure", list(Failure))
async def test_what_failed_was_not_published_but_for_a_lost_confirm(recording_publisher, failure):
    recording_publisher.fail(failure)
    with pytest.raises((BrokerUnavailable, Refused, Unroutable)):
        await recording_publisher.publish(ALL)

    assert recording_publisher.commands == ([ALL] if failure is Failure.CONFIRM_LOST else [])


async def test_it_works_again_after_so_many_failures_or_when_told(recording_publisher):
    recording_publisher.fail(Failure.SILENT, times=2)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await recording_publisher.publish(ALL)
    await recording_publisher.publish(ALL)
    recording_publisher.fail(Failure.UNREACHABLE)
    assert not recording_publisher.is_connected
    recording_publisher.work()
    assert recording_publisher.is_connected
    await recording_publisher.publish(SOME[0])

    assert recording_publisher.commands == [ALL, SOME[0]]


async def test_it_retries_as_it_is_told():
    delays = RetryPolicy(first_s=0.001, longest_s=0.001)
    async with RecordingPublisher(retries=Retries(attempts=3, delays=delays)) as publisher:
        publisher.fail(Failure.QUEUE_FULL, times=2)
        await publisher.publish(ALL)

    assert publisher.commands == [ALL]


async def test_of_many_it_names_those_that_failed(recording_publisher):
    recording_publisher.fail(Failure.QUEUE_FULL, times=3)
    with pytest.raises(NotAllPublished) as caught:
        await recording_publisher.publish_many(SOME)

    assert {command for command, _ in caught.value.failed} | set(recording_publisher.commands) == set(SOME)
    assert len(recording_publisher.commands) == 7


async def test_code_that_opens_and_closes_its_publisher_may_have_one():
    async with RecordingPublisher(url="amqp://user:password@broker/", app_id="mine") as publisher:
        await publisher.publish(ALL)
    with pytest.raises(BrokerUnavailable, match="stopped"):
        await publisher.publish(ALL)

    assert publisher.commands == [ALL]


async def test_code_that_forgets_to_open_its_publisher_is_told_as_by_the_real_one():
    for publisher in (RecordingPublisher(), Publisher(url="amqp://127.0.0.1:1/")):
        for attempt in (publisher.publish(ALL), publisher.publish_many([ALL]), publisher.wait_connected()):
            with pytest.raises(RuntimeError, match="within `async with`"):
                await attempt


def test_for_code_without_an_event_loop_there_is_one_that_blocks(blocking_recording_publisher):
    blocking_recording_publisher.publish(ALL)
    blocking_recording_publisher.publish_many(SOME)
    blocking_recording_publisher.fail(Failure.NO_PERMISSION)
    with pytest.raises(Refused):
        blocking_recording_publisher.publish(ALL)
    blocking_recording_publisher.work()

    assert isinstance(blocking_recording_publisher, BlockingRecordingPublisher)
    assert blocking_recording_publisher.commands == [ALL, *SOME]
