"""
A good worker on plain aio-pika: what arrives is gathered, deleted by one statement, and acknowledged at once.

As fast as aio-pika's consumer lets it be: a prefetch of several batches, a linger of 20 ms (without one, or with 5 ms,
batches are smaller and slower), one multiple acknowledgement after the commit. It has no retries and no lock order, and
dead-letters without a reason.

    BROKER_URL=... DATABASE_URL=... python -m benchmarks.contenders.batched
"""

import asyncio
import os

import aio_pika
import asyncpg
from aio_pika.abc import AbstractIncomingMessage

from configcache import ClearConfigurationCache, ContractError
from configcache.topology import COMMAND_QUEUE
from configcache.wire import decode

PREFETCH = 5_000
BATCH = 1_000
LINGER_S = 0.02
DELETE = """
DELETE FROM configuration_cache AS c
USING unnest($1::text[], $2::text[], $3::bigint[]) AS k(application, instance, associate_id)
WHERE c.application = k.application AND c.instance = k.instance AND c.associate_id = k.associate_id
"""
DELETE_FOR_ALL = """
DELETE FROM configuration_cache AS c
USING unnest($1::text[], $2::text[]) AS k(application, instance)
WHERE c.application = k.application AND c.instance = k.instance
"""


async def main() -> None:
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    connection = await aio_pika.connect_robust(os.environ["BROKER_URL"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    queue = await channel.get_queue(COMMAND_QUEUE)
    await queue.consume(arrived.put)
    while True:
        messages = await gather(arrived)
        good = [(message, command) for message in messages if (command := await read(message))]
        if good:
            async with database.transaction():
                await clear(database, [command for _, command in good])
            await good[-1][0].ack(multiple=True)


async def gather(arrived: asyncio.Queue[AbstractIncomingMessage]) -> list[AbstractIncomingMessage]:
    """The next batch: what has arrived a moment after its first message."""
    messages = [await arrived.get()]
    if arrived.qsize() < BATCH:
        await asyncio.sleep(LINGER_S)
    while not arrived.empty() and len(messages) < BATCH:
        messages.append(arrived.get_nowait())
    return messages


async def read(message: AbstractIncomingMessage) -> ClearConfigurationCache | None:
    """The command in *message*; None if there is none, and the message is rejected."""
    try:
        return decode(message.body)
    except ContractError:
        await message.reject(requeue=False)
        return None


async def clear(database: asyncpg.Connection, commands: list[ClearConfigurationCache]) -> None:
    one = [(c.application, c.instance, c.associate_id) for c in commands if not c.for_all_associates]
    everyone = [(c.application, c.instance) for c in commands if c.for_all_associates]
    if one:
        await database.execute(DELETE, *map(list, zip(*one, strict=True)))
    if everyone:
        await database.execute(DELETE_FOR_ALL, *map(list, zip(*everyone, strict=True)))


if __name__ == "__main__":
    asyncio.run(main())
