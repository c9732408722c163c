"""
The obvious worker: aio-pika's consumer, one DELETE for each message, one acknowledgement for each message.

Written as the documentation of both drivers shows it, with a prefetch that favours it. It validates with the same model,
and neither batches, coalesces, retries nor dead-letters with a reason.

    BROKER_URL=... DATABASE_URL=... python -m benchmarks.contenders.one_at_a_time
"""

import asyncio
import contextlib
import os

import aio_pika
import asyncpg
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from configcache.topology import COMMAND_QUEUE
from configcache.wire import decode

DELETE = """
DELETE FROM configuration_cache
WHERE application = $1 AND instance = $2 AND ($3::bigint IS NULL OR associate_id = $3)
"""


async def main() -> None:
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    connection = await aio_pika.connect_robust(os.environ["BROKER_URL"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=100)
    queue = await channel.get_queue(COMMAND_QUEUE)
    async with queue.iterator() as messages:
        async for message in messages:
            # The connection may have gone meanwhile; the broker then hands the message out again.
            with contextlib.suppress(AMQPError, ChannelInvalidStateError):
                async with message.process():
                    command = decode(message.body)
                    await database.execute(
                        DELETE, command.application, command.instance, command.associate_id
                    )


if __name__ == "__main__":
    asyncio.run(main())
