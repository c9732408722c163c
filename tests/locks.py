"""Somebody else's locks in a system's database."""

import contextlib

import asyncpg

from tests.waiting import eventually


@contextlib.asynccontextmanager
async def locked_row(system, associate):
    """Somebody else holds the rows of *associate* until the end of the block."""
    connection = await asyncpg.connect(system.settings.database.url)
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM configuration_cache WHERE associate_id = $1 FOR UPDATE", associate
            )
            yield
    finally:
        await connection.close()


async def someone_waits_for_a_lock(system):
    """Wait until a statement in the system's database waits for a lock."""
    connection = await asyncpg.connect(system.settings.database.url)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    try:
        await eventually(lambda: connection.fetchval(waiting))
    finally:
        await connection.close()
