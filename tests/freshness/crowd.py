"""Many readers of one key at once, as a program: begins at the first line of its input, and tells what each has got."""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg

from configcache.cache import ConfigurationCache

KEY = ("WebClient", "Web", 42, "Contact")
CREATE_BUILDS = "CREATE TABLE build (pid int)"
_BUILD_S = 0.5


async def main(url: str, readers: int) -> None:
    async with asyncpg.create_pool(url, min_size=4, max_size=4) as pool:
        cache = ConfigurationCache(pool)

        async def build() -> str:
            await pool.execute("INSERT INTO build VALUES (pg_backend_pid())")
            await asyncio.sleep(_BUILD_S)
            return "<built/>"

        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        got = await asyncio.gather(*(cache.get_or_build(*KEY, build) for _ in range(readers)))
    sys.stdout.write(json.dumps(got))


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
