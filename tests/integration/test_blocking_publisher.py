"""The blocking publisher is the asynchronous one on a thread; what is tested here is the thread."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from configcache import BrokerUnavailable, ClearConfigurationCache, NotAllPublished, Refused, blocking, wire
from configcache.recording import BlockingRecordingPublisher
from tests.commands import declare, published

COMMAND = ClearConfigurationCache.for_all("WebClient", "Web")
MANY = [ClearConfigurationCache.for_associate("WebClient", "Web", number) for number in range(1, 101)]


@pytest.fixture
def broker_url(vhost):
    """A virtual host with the topology on it."""
    asyncio.run(declare(vhost))
    return vhost


def commands_in(url):
    return {wire.decode(message.body) for message in asyncio.run(published(url))}


def test_a_published_command_is_in_the_queue(broker_url):
    with blocking.Publisher(url=broker_url, app_id="script") as publisher:
        publisher.publish(COMMAND)
        publisher.publish_many(MANY)

    assert commands_in(broker_url) == {COMMAND, *MANY}


def test_many_threads_share_one_publisher(broker_url):
    with blocking.Publisher(url=broker_url) as publisher, ThreadPoolExecutor(8) as threads:
        list(threads.map(publisher.publish, MANY))

    assert commands_in(broker_url) == set(MANY)


def test_a_generator_of_commands_is_read_in_the_thread_that_calls():
    read_in = set()

    def generate():
        for command in MANY:
            read_in.add(threading.current_thread())
            yield command

    with BlockingRecordingPublisher() as publisher:
        publisher.publish_many(generate())

    assert read_in == {threading.current_thread()}
    assert publisher.commands == MANY


def test_errors_are_those_of_the_other_publisher(vhost):
    with blocking.Publisher(url=vhost) as publisher:
        with pytest.raises(Refused, match="no exchange 'configuration'"):
            publisher.publish(COMMAND)
        with pytest.raises(NotAllPublished):
            publisher.publish_many(MANY)


def test_a_broker_that_is_away_costs_the_timeout_and_no_more():
    with blocking.Publisher(url="amqp://127.0.0.1:1/", timeout_s=0.3) as publisher:
        began_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="connection refused"):
            publisher.publish(COMMAND)

        assert time.monotonic() - began_s < 2


def test_outside_of_its_life_it_says_so(broker_url):
    publisher = blocking.Publisher(url=broker_url)
    with pytest.raises(RuntimeError, match="within `with`, or call start"):
        publisher.publish(COMMAND)
    publisher.start()
    with pytest.raises(RuntimeError, match="started already"):
        publisher.start()
    publisher.close()
    publisher.close()
    with pytest.raises(BrokerUnavailable, match="stopped"):
        publisher.publish(COMMAND)


def test_a_close_leaves_nobody_waiting_and_no_thread():
    publisher = blocking.Publisher(url="amqp://127.0.0.1:1/", timeout_s=60)
    publisher.start()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(publisher.publish, COMMAND)
        while not waiting.running():
            pass
        publisher.close()

        with pytest.raises(BrokerUnavailable, match="stopped"):
            waiting.result(timeout=10)
    assert "configcache publisher" not in {thread.name for thread in threading.enumerate()}


def test_who_publishes_beside_a_close_is_always_answered():
    for _ in range(20):
        publisher = BlockingRecordingPublisher()
        publisher.start()

        def publish_on(publisher=publisher):
            while True:
                publisher.publish(COMMAND)

        with ThreadPoolExecutor(8) as threads:
            publishing = [threads.submit(publish_on) for _ in range(8)]
            while len(publisher.commands) < 8:
                pass
            publisher.close()

            errors = [each.exception(timeout=5) for each in publishing]

        assert {type(error) for error in errors} == {BrokerUnavailable}


def test_a_close_does_not_come_between_the_look_whether_it_is_open_and_the_publish(monkeypatch):
    schedule, closing = asyncio.run_coroutine_threadsafe, threading.Event()

    def late(coroutine, loop):
        if coroutine.__name__ == "publish":
            closing.set()
            closer.join(0.2)  # in vain, but if the close did not wait for this publish
        return schedule(coroutine, loop)

    def close():
        closing.wait()
        publisher.close()

    publisher = BlockingRecordingPublisher()
    publisher.start()
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", late)
    closer = threading.Thread(target=close)
    closer.start()
    try:
        with contextlib.suppress(BrokerUnavailable):
            publisher.publish(COMMAND)
    finally:
        closer.join(10)
        assert not closer.is_alive()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_in_a_forked_process_it_says_what_to_do(broker_url):
    def try_in_child(answers):
        try:
            publisher.publish(COMMAND)
        except RuntimeError as error:
            answers.put(str(error))
        publisher.close()

    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    with blocking.Publisher(url=broker_url) as publisher:
        child = fork.Process(target=try_in_child, args=(answers,))
        child.start()
        answer = answers.get(timeout=20)
        child.join(20)

        assert "start one after the fork" in answer
        assert child.exitcode == 0
        publisher.publish(COMMAND)

    assert commands_in(broker_url) == {COMMAND}
