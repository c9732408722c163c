"""Rows of the publisher: whatever happens to its connection, a command that was reported confirmed is in the queue."""

import asyncio
import contextlib
import time

import pytest

from configcache import ClearConfigurationCache, Publisher, PublishError, RetryPolicy
from tests.commands import arrived, declare
from tests.proxy import Proxy
from tests.waiting import eventually

TIMEOUT_S = 3.0


class Account:
    """What the publisher said of each command, and how long it took to say so."""

    def __init__(self, publisher):
        self._publisher = publisher
        self.confirmed = set()
        self.failed = set()
        self.slowest_s = 0.0

    async def publish(self, numbers):
        for number in numbers:
            began_s = time.monotonic()
            try:
                await self._publisher.publish(ClearConfigurationCache.for_associate("A", "B", number))
                self.confirmed.add(number)
            except PublishError:
                self.failed.add(number)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)


async def cut_at_random(line, rng):
    """Cut the line again and again: in the middle of a confirm, between two, frozen before, or twice in a row."""
    while True:
        await line.cut_after(rng.randrange(1, 4_000))
        if rng.random() < 0.2:
            line.freeze()
            await asyncio.sleep(rng.uniform(0, 2 * TIMEOUT_S) if rng.random() < 0.1 else 0)
            line.cut()
            line.thaw()


@pytest.mark.in_suite
@pytest.mark.timeout(600)
@pytest.mark.row(28, "the publisher's line cut at random moments under 100,000 publishes")
async def test_what_was_reported_confirmed_is_in_the_queue(vhost, rabbitmq, scale, rng):
    count = scale(100_000, in_suite=20_000)
    await declare(vhost)
    # With the usual delays most of the time would pass between two connections, where nothing can go wrong.
    quick = RetryPolicy(first_s=0.01, longest_s=0.1)
    async with (
        Proxy(vhost) as line,
        Publisher(url=line.url, timeout_s=TIMEOUT_S, reconnect=quick) as publisher,
    ):
        account = Account(publisher)
        numbers = iter(range(1, count + 1))
        publishing = asyncio.gather(*(account.publish(numbers) for _ in range(200)))
        cutting = asyncio.create_task(cut_at_random(line, rng))
        for part in range(1, scale(5, in_suite=1)):
            share = part * count / 5
            await eventually(lambda share=share: len(account.confirmed) >= share, timeout_s=300)
            await asyncio.to_thread(rabbitmq.restart if part % 2 else rabbitmq.kill)
            await asyncio.to_thread(rabbitmq.start)
        await publishing
        cutting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await cutting
        cuts = line.connections - 1

    came = [command.associate_id for command in await arrived(vhost)]

    print(  # noqa: T201 - the figures of a run, with -s
        f"{len(account.confirmed)} confirmed, {len(account.failed)} failed, {len(came)} arrived, {cuts} cuts, "
        f"slowest {account.slowest_s:.1f} s"
    )
    assert account.confirmed - set(came) == set()
    assert account.confirmed | account.failed == set(range(1, count + 1))
    assert set(came) <= account.confirmed | account.failed
    assert cuts >= 3
    assert account.slowest_s < TIMEOUT_S + 2
