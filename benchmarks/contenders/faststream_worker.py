"""
The same work as a subscriber of FastStream, which reads the body into the model by itself, on asyncpg.

FastStream acknowledges when the subscriber has returned, which is after the commit; what failed it rejects. Each delivery
is a task of its own, so the database is reached through a pool. A larger prefetch or a larger pool was slower.

    BROKER_URL=... DATABASE_URL=... python -m benchmarks.contenders.faststream_worker
"""

import asyncio
import os

import asyncpg
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from configcache import ClearConfigurationCache
from configcache.topology import COMMAND_QUEUE

PREFETCH = 20
CONNECTIONS = 2
DELETE = """
DELETE FROM configuration_cache
WHERE application = $1 AND instance = $2 AND ($3::bigint IS NULL OR associate_id = $3)
"""


async def main() -> None:
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=CONNECTIONS, max_size=CONNECTIONS
    ) as pool:
        channel = Channel(prefetch_count=PREFETCH)
        broker = RabbitBroker(os.environ["BROKER_URL"], default_channel=channel, logger=None)
        queue = RabbitQueue(COMMAND_QUEUE, declare=False)

        @broker.subscriber(queue, ack_policy=AckPolicy.REJECT_ON_ERROR)
        async def clear(command: ClearConfigurationCache) -> None:
            await pool.execute(DELETE, command.application, command.instance, command.associate_id)

        await FastStream(broker).run()


if __name__ == "__main__":
    asyncio.run(main())
