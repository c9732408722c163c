"""
A producer that makes a mistake: its command says neither whose rows to clear nor that everybody's are meant.

    CONFIGCACHE_BROKER__URL=amqp://producer:secret@broker/ python examples/poison.py

For a rehearsal. What becomes of it, and how it is found, mended and replayed, tells docs/operations.md.
"""

import asyncio
import os

import aio_pika

BODY = b'{"Application":"WebClient","Instance":"Web"}'


async def main() -> None:
    """Publish it."""
    async with await aio_pika.connect(os.environ["CONFIGCACHE_BROKER__URL"]) as connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange("configuration", ensure=False)
        message = aio_pika.Message(BODY, content_type="application/json", app_id="shop")
        await exchange.publish(message, routing_key="clear-configuration-cache.v1")
    print(f"published {BODY.decode()}")


if __name__ == "__main__":
    asyncio.run(main())
