"""How fast does ``configcache.Publisher`` publish, one after the other or many at once?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from benchmarks.arena import arena
from benchmarks.contenders import OURS
from benchmarks.results import Publishing
from benchmarks.workloads import APPLICATION, INSTANCE, distinct
from configcache import ClearConfigurationCache, Publisher
from configcache.topology import COMMAND_QUEUE
from configcache_worker.local.servers import Servers


class NotPublished(Exception):
    """The queue does not have what was confirmed."""


async def publishing(servers: Servers, *, window: int, count: int, number: int = 1) -> Publishing:
    """
    Publish *count* commands, with *window* tasks that each await the confirm before they publish the next.

    Raises:
        NotPublished: Not every confirmed command is in the queue.
    """
    async with (
        arena(servers, distinct(1), OURS) as place,
        Publisher(url=place.broker_url, timeout_s=60.0) as publisher,
    ):
        commands = iter(
            [ClearConfigurationCache.for_associate(APPLICATION, INSTANCE, each + 1) for each in range(count)]
        )
        await publisher.publish(ClearConfigurationCache.for_all(APPLICATION, INSTANCE))
        began = time.monotonic()
        await asyncio.gather(*(_publish_each(publisher, commands) for _ in range(window)))
        seconds = time.monotonic() - began
        if await place.bench.depth(COMMAND_QUEUE) != count + 1:
            raise NotPublished(
                f"{await place.bench.depth(COMMAND_QUEUE)} commands in the queue, not {count + 1}"
            )
    return Publishing(number, window, count / seconds)


async def _publish_each(publisher: Publisher, commands: Iterator[ClearConfigurationCache]) -> None:
    for command in commands:
        await publisher.publish(command)
