"""
The obvious worker: aio-pika's consumer, one DELETE per message, one acknowledgement per message.

Written as the documentation of both drivers shows it, with a prefetch that favours it. It validates with the same model,
and neither batches, coalesces, retries nor dead-letters.

    python benchmarks/one_at_a_time.py BROKER_URL DATABASE_URL
"""

import asyncio
import sys

import aio_pika
import asyncpg

from configcache.topology import COMMAND_QUEUE
from configcache.wire import decode

DELETE = """
DELETE FROM configuration_cache
WHERE application = $1 AND instance = $2 AND ($3::bigint IS NULL OR associate_id = $3)
"""


async def main(broker_url: str, database_url: str) -> None:
    database = await asyncpg.connect(database_url)
    connection = await aio_pika.connect(broker_url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    queue = await channel.get_queue(COMMAND_QUEUE)
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                command = decode(message.body)
                await database.execute(DELETE, command.application, command.instance, command.associate_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
