"""The broker as a test sees it beside the publisher: declare the topology, and take out what was published."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aio_pika

from configcache import ClearConfigurationCache, Publisher, wire
from configcache.connection import connect
from configcache.topology import COMMAND_QUEUE, TOPOLOGY


@contextlib.asynccontextmanager
async def channel_to(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel of its own, on a connection of its own."""
    connection = await connect(url, name="test", timeout_s=10, heartbeat_s=10)
    async with connection:
        yield await connection.channel()


async def declare(url: str) -> None:
    """Declare all that producers and workers need."""
    async with channel_to(url) as channel:
        for exchange in TOPOLOGY.exchanges:
            await channel.declare_exchange(exchange.name, exchange.type, durable=True)
        queues = {
            queue.name: await channel.declare_queue(queue.name, durable=True, arguments=dict(queue.arguments))
            for queue in TOPOLOGY.queues
        }
        for binding in TOPOLOGY.bindings:
            await queues[binding.queue].bind(binding.exchange, binding.routing_key)


async def published(url: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """Take everything out of the command queue."""
    async with channel_to(url) as channel:
        queue = await channel.get_queue(COMMAND_QUEUE)
        messages = []
        while (message := await queue.get(fail=False)) is not None:
            await message.ack()
            messages.append(message)
        return messages


async def arrived(url: str) -> list[ClearConfigurationCache]:
    """Take every command out of the queue, quickly where they are many: each as often as it came."""
    last = ClearConfigurationCache.for_all("The", "End")
    async with Publisher(url=url, timeout_s=30) as publisher:
        await publisher.publish(last)
    commands: list[ClearConfigurationCache] = []
    ended = asyncio.Event()

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        command = wire.decode(message.body)
        if command == last:
            ended.set()
        else:
            commands.append(command)

    async with channel_to(url) as channel:
        queue = await channel.get_queue(COMMAND_QUEUE)
        await queue.consume(take, no_ack=True)
        await asyncio.wait_for(ended.wait(), 120)
    return commands
