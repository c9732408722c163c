"""
Workers that leave something undone, for the benchmark to notice.

    python -m tests.acceptance.careless_worker keeps-rows | keeps-messages | does-nothing
"""

import asyncio
import os
import sys

import aio_pika
import asyncpg

from benchmarks.workloads import MARKS
from configcache.topology import COMMAND_QUEUE


async def main(how: str) -> None:
    if how == "does-nothing":
        await asyncio.sleep(60)
    database = await asyncpg.connect(os.environ["DATABASE_URL"])
    connection = await aio_pika.connect(os.environ["BROKER_URL"])
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=1_000)
    queue = await channel.get_queue(COMMAND_QUEUE)
    await queue.consume(lambda _: None, no_ack=how == "keeps-rows")
    # The marks are what a look from outside goes by: whoever deletes them looks busy.
    for mark in MARKS:
        await asyncio.sleep(0.2)
        await database.execute("DELETE FROM configuration_cache WHERE associate_id = $1", mark.associate)
    if how == "keeps-messages":
        await database.execute("DELETE FROM configuration_cache")
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
