"""
Readers, writers and workers race on real servers, and every read is looked at.

Two writers change the configuration, each of its own instance, and publish a command after each change, for one associate
or for all. Two workers obey; one of them is killed now and then, and another started. Eight readers, in two processes, read
through the cache. See :mod:`.board` for how it is known what a read may not find.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from configcache import ClearConfigurationCache, Publisher
from configcache_worker.settings import Settings
from tests.freshness import board as boards
from tests.freshness.board import APPLICATION, ASSOCIATES, INSTANCES, Board, slots_of
from tests.freshness.mutations import Mutation
from tests.process import WorkerProcess

PROJECT = Path(__file__).parents[2]
READERS, PROCESSES = 8, 2
_CREATE_SOURCE = """
CREATE TABLE source (instance text, associate_id int, version bigint NOT NULL, PRIMARY KEY (instance, associate_id))
"""
_FILL_SOURCE = "INSERT INTO source SELECT i, a, 0 FROM unnest($1::text[]) AS i, generate_series(1, $2) AS a"
_CHANGE = """
UPDATE source SET version = version + 1 WHERE instance = $1 AND associate_id BETWEEN $2 AND $3
RETURNING associate_id, version
"""
_KEEP_LEASES = """
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON configuration_cache FOR EACH ROW WHEN (OLD.xml IS NULL) EXECUTE FUNCTION keep();
"""


@dataclass
class Report:
    """How a stress went."""

    reads: int
    seconds: float
    changes: int = 0
    kills: int = 0
    stale: list[str] = field(default_factory=list)
    built: int = 0

    def add(self, outputs: tuple[bytes, bytes]) -> None:
        """Add what a reader process printed at its end."""
        found = json.loads(outputs[0])
        self.reads += found["reads"]
        self.built += found.get("built", 0)
        self.stale += found["stale"]

    def __str__(self) -> str:
        return (
            f"{self.reads} reads ({self.built} built) in {self.seconds:.0f} s, {self.changes} changes, "
            f"{self.kills} workers killed: {len(self.stale) or 'none'} stale"
        )


async def stress(
    settings: Settings,
    start_worker: Callable[..., WorkerProcess],
    *,
    folder: Path,
    reads: int,
    most_s: float,
    rng: random.Random,
    mutation: Mutation | None = None,
) -> Report:
    """
    Race until there were so many *reads*, or one that was stale.

    Args:
        settings: Virtual host and database, with topology and tables.
        start_worker: As the fixture of that name.
        folder: For the board.
        reads: How many are enough.
        most_s: The longest it may take.
        rng: When workers are killed, and what changes.
        mutation: What is broken.
    """
    path = folder / "board"
    board = boards.create(path)
    await _prepare(settings.database.url, mutation)
    start = functools.partial(
        start_worker,
        settings,
        program=("-m", "tests.freshness.clearing_worker"),
        PYTHONPATH=str(PROJECT),
        BOARD=str(path),
        CONFIGCACHE_WORKER__CHUNK_ROWS="100",
    )
    report = Report(0, 0.0)
    pause_s = (
        0.02 if mutation else 0.12
    )  # the more changes, the sooner something is found, and the fewer reads there are
    began = time.monotonic()
    options = {"url": settings.database.url, "board": str(path), "mutation": mutation and mutation.name}
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(most_s))
        readers = [
            await stack.enter_async_context(_some_readers(number, options)) for number in range(PROCESSES)
        ]
        publisher = await stack.enter_async_context(Publisher(url=settings.broker.url))
        pool = await stack.enter_async_context(
            asyncpg.create_pool(settings.database.url, min_size=2, max_size=2)
        )
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for instance in INSTANCES:
            tasks.create_task(_write(instance, board, publisher, pool, rng, report, pause_s=pause_s))
        tasks.create_task(_kill_now_and_then(start, board, rng, report))
        while board.reads < reads and not board.stale:
            assert all(reader.returncode is None for reader in readers), "a reader process has ended"
            await asyncio.sleep(0.02)
        report.seconds = time.monotonic() - began
        board.stop()
        for reader in readers:
            report.add(await reader.communicate())
    return report


def _some_readers(
    number: int, options: dict[str, object]
) -> contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return program("tests.freshness.readers", {**options, "number": number, "readers": READERS // PROCESSES})


@contextlib.asynccontextmanager
async def program(module: str, options: dict[str, object]) -> AsyncIterator[asyncio.subprocess.Process]:
    """*module* as a process with *options*, killed if it has not ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, json.dumps(options)),
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _write(
    instance: str,
    board: Board,
    publisher: Publisher,
    pool: asyncpg.Pool,
    rng: random.Random,
    report: Report,
    *,
    pause_s: float,
) -> None:
    """Change the configuration of *instance* and publish, again and again; now and then wait until it is cleared."""
    while not board.is_over:
        associate = None if rng.random() < 0.1 else rng.choice([*ASSOCIATES, *[*ASSOCIATES[:3]] * 7])
        first, last = (associate, associate) if associate else (ASSOCIATES[0], ASSOCIATES[-1])
        slots = list(slots_of(instance, associate))
        changed = dict(await pool.fetch(_CHANGE, instance, first, last))
        for slot, number in zip(slots, sorted(changed), strict=True):
            board.publish(slot, changed[number])
        await publisher.publish(
            ClearConfigurationCache(application=APPLICATION, instance=instance, associate_id=associate)
            if associate
            else ClearConfigurationCache.for_all(APPLICATION, instance)
        )
        report.changes += 1
        if rng.random() < 0.5:
            while not board.is_over and any(board.cleared(slot) < board.published(slot) for slot in slots):
                await asyncio.sleep(0.002)
        await asyncio.sleep(rng.uniform(0.0, pause_s))


async def _kill_now_and_then(
    start: Callable[[], WorkerProcess], board: Board, rng: random.Random, report: Report
) -> None:
    workers = [start(), start()]
    next_s = time.monotonic() + 3.0
    while not board.is_over:
        if time.monotonic() > next_s:
            worker = workers.pop(0)
            await asyncio.to_thread(worker.kill)
            workers.append(start())
            report.kills += 1
            next_s = time.monotonic() + rng.uniform(3.0, 9.0)
        await asyncio.sleep(0.01)
    for worker in workers:
        await asyncio.to_thread(worker.kill)


async def _prepare(url: str, mutation: Mutation | None) -> None:
    """Create the configuration, and break what shall be broken in the database."""
    connection = await asyncpg.connect(url)
    await connection.execute(_CREATE_SOURCE)
    await connection.execute(_FILL_SOURCE, list(INSTANCES), len(ASSOCIATES))
    if mutation is Mutation.LEASE_KEPT_ACROSS_CLEAR:
        await connection.execute(_KEEP_LEASES)
    for function, old, new in _EDITS.get(mutation, ()):
        definition = await connection.fetchval("SELECT pg_get_functiondef($1::regproc)", function)
        assert definition.count(old) == 1, f"{function} has {definition.count(old)} times {old!r}"
        await connection.execute(definition.replace(old, new))
    await connection.close()


_EDITS: dict[Mutation | None, tuple[tuple[str, str, str], ...]] = {
    Mutation.STORE_WITHOUT_LEASE: (("configuration_cache_store", "\n        AND c.lease = $5;", ";"),),
    Mutation.NO_FENCE: (
        (
            "configuration_cache_begin",
            "    -- Missing, expired, or to be refreshed.",
            "    lease := $7;\n    RETURN;\n    --",
        ),
        (
            "configuration_cache_store",
            "    UPDATE configuration_cache AS c\n"
            "    SET xml = $6, built_at = clock_timestamp(), lease = NULL, leased_until = NULL\n"
            "    WHERE c.application = $1 AND c.instance = $2 AND c.associate_id = $3 AND c.item = $4\n"
            "        AND c.lease = $5;",
            "    INSERT INTO configuration_cache (application, instance, associate_id, item, xml)\n"
            "    VALUES ($1, $2, $3, $4, $6)\n"
            "    ON CONFLICT (application, instance, associate_id, item) DO UPDATE SET xml = excluded.xml;",
        ),
    ),
}
