"""
What do leases cost the clear? The same rows, with and without leases among them, cleared in interleaved rounds.

    .venv/bin/python benchmarks/leases.py [ROWS] [ROUNDS]

A private PostgreSQL on this machine. Each round fills an empty table, and measures the worker's own pass over all of it, in
chunks of 5,000 rows. Afterwards the table must be empty, or the figure does not count. *stored* is what the table looks
like when its rows were built one by one: each was a lease first, and has left an old version behind.
"""

import asyncio
import statistics
import sys
import time

import asyncpg

from configcache_worker.core.ports import Scope
from configcache_worker.local.servers import Servers
from configcache_worker.postgres.cache_table import PostgresCacheTable
from configcache_worker.postgres.connection import TimeLimits
from configcache_worker.postgres.migrations import migrate
from configcache_worker.postgres.statements import TableLayout

NONE = "no leases"
CHUNK_ROWS = 5_000
SCOPE = Scope("WebClient", "Web", None)
KEYS = "SELECT 'WebClient', 'Web', n / 10 + 1, 'page' || n % 10 FROM generate_series(0, $1::int - 1) AS n"
CACHED = f"""
INSERT INTO configuration_cache (application, instance, associate_id, item, xml, built_at)
SELECT *, '<page>' || repeat(md5(random()::text), 8) || '</page>', now() FROM ({KEYS}) AS keys"""
LEASED = f"""
INSERT INTO configuration_cache (application, instance, associate_id, item, lease, leased_until)
SELECT *, gen_random_uuid(), now() + interval '30 seconds' FROM ({KEYS}) AS keys"""
LEASE = """
UPDATE configuration_cache SET lease = gen_random_uuid(), leased_until = now() + interval '30 seconds', xml = NULL
WHERE item = 'page0'"""
STORE = """
UPDATE configuration_cache SET lease = NULL, leased_until = NULL, built_at = now(),
    xml = '<page>' || repeat(md5(random()::text), 8) || '</page>'"""
# A tenth of the rows is being built. VACUUM FULL leaves the same rows without the versions that the UPDATE left.
FILLS: dict[str, tuple[str, ...]] = {
    NONE: (CACHED, "VACUUM FULL configuration_cache"),
    "every tenth a lease": (CACHED, LEASE, "VACUUM FULL configuration_cache"),
    "stored": (LEASED, STORE),
}


async def clear(url: str, fill: tuple[str, ...], rows: int) -> float:
    """Seconds that a pass over the table takes."""
    connection = await asyncpg.connect(url)
    await connection.execute("TRUNCATE configuration_cache")
    for statement in fill:
        await connection.execute(statement, *([rows] if "$1" in statement else []))
    await connection.execute("CHECKPOINT")
    table = PostgresCacheTable(url, layout=TableLayout(), limits=TimeLimits())
    await table.probe()
    began = time.perf_counter()
    after = None
    while (chunk := await table.clear([SCOPE], after=after, limit=CHUNK_ROWS)).last:
        after = chunk.last
    seconds = time.perf_counter() - began
    left = await connection.fetchval("SELECT count(*) FROM configuration_cache")
    await connection.close()
    await table.close()
    if left:
        raise SystemExit(f"{left} rows were left")
    return seconds


async def main(url: str, rows: int, rounds: int) -> None:
    """Run the rounds and print the medians."""
    await migrate(url)
    found: dict[str, list[float]] = {name: [] for name in FILLS}
    for number in range(rounds):
        for name, fill in FILLS.items():
            found[name].append(await clear(url, fill, rows))
        print(
            f"round {number + 1}", *(f"{name} {times[-1]:.3f} s" for name, times in found.items()), sep="  "
        )
    print(f"\n{rows} rows cleared, medians of {rounds} (least to most)")
    for name, times in found.items():
        ratio = statistics.median(mine / none for mine, none in zip(times, found[NONE], strict=True))
        print(
            f"{name:<22}{statistics.median(times):>8.3f} s ({min(times):.3f} to {max(times):.3f})"
            f"{ratio:>8.2f} times {NONE}, median of the rounds"
        )


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    with Servers() as servers, servers.database() as database:
        asyncio.run(main(database, *[*arguments, *[50_000, 9][len(arguments) :]]))
