"""Look at the database: does it take writes, what is in the cache, what waits in the outbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from configcache_worker.app import table_layout
from configcache_worker.core.ports import TableFault
from configcache_worker.postgres.backlog import MOST_COUNTED
from configcache_worker.postgres.connection import TimeLimits, host_of
from configcache_worker.postgres.overview import Leases, Overview
from configcache_worker.postgres.statements import TableLayout
from configcache_worker.settings import CacheSettings, DatabaseSettings
from configcache_worker.status.sights import (
    Cache,
    Database,
    DatabaseState,
    Exactness,
    Outbox,
    Unseen,
    obstacle_to,
)

_INSUFFICIENT_PRIVILEGE: Final = "42501"
_READ_ONLY: Final = "25006"
_UNDEFINED_TABLE: Final = "42P01"

_T = TypeVar("_T")


@dataclass(slots=True)
class Sights:
    """What was seen so far."""

    database: Database | Unseen | None = None
    cache: Cache | Unseen | None = None
    outbox: Outbox | Unseen | None = None


async def look(
    database: DatabaseSettings, cache: CacheSettings, *, patience_s: float
) -> tuple[Database | Unseen, Cache | Unseen, Outbox | Unseen]:
    """
    Look at the server of *database*, the table of *cache* and the outbox, within *patience_s* and two seconds more.

    Never fails: what can't be seen says why.
    """
    seen = Sights()
    looking = _look(database, cache, seen, patience_s)
    obstacle = await obstacle_to(looking, patience_s=patience_s, fault=TableFault)
    unasked = Unseen("the database does not answer" if seen.database is None else obstacle.why)
    return seen.database or obstacle, seen.cache or unasked, seen.outbox or unasked


async def _look(database: DatabaseSettings, cache: CacheSettings, seen: Sights, patience_s: float) -> None:
    layout = table_layout(cache)
    limits = TimeLimits(
        connect_timeout_s=min(database.connect_timeout_s, patience_s),
        lock_timeout_s=min(database.lock_timeout_s, patience_s / 4),
        statement_timeout_s=patience_s / 2,
    )
    async with Overview(
        database.url, layout=layout, limits=limits, cache_statements=database.statement_cache
    ) as overview:
        seen.database = await _server(overview, host_of(database.url))
        # The cache last: a large table takes longest, and may use up the time.
        seen.outbox = await _outbox(overview, cache.schema_, seen.database)
        seen.cache = await _cache(overview, layout, seen.database)


async def _server(overview: Overview, address: str) -> Database:
    server = await overview.server()
    state: DatabaseState = (
        "standby" if server.is_standby else "read-only" if server.is_read_only else "writable"
    )
    return Database(server.version, address, server.database, server.role, state)


async def _outbox(overview: Overview, schema: str, database: Database) -> Outbox | Unseen:
    try:
        backlog = await overview.backlog(schema)
    except TableFault as fault:
        if fault.sqlstate is None:
            raise
        return Unseen(_obstacle(fault, f"the outbox in schema {schema}", database))
    if not backlog.rows:
        return Outbox(0, "exact", None)
    rows_are: Exactness = "exact" if backlog.rows < MOST_COUNTED else "estimate"
    return Outbox(backlog.rows, rows_are, round(max(backlog.oldest_s, 0.0), 3))


async def _cache(overview: Overview, layout: TableLayout, database: Database) -> Cache | Unseen:
    not_told: list[str] = []

    async def unless_refused(what: str, ask: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            return await ask()
        except TableFault as fault:
            if fault.sqlstate is None:
                raise
            not_told.append(f"{what}: {_obstacle(fault, layout.name, database)}")
            return None

    clear_fails = await _clear_fails(overview, not_told, database)
    if clear_fails is not None and clear_fails.sqlstate == _UNDEFINED_TABLE:
        mend = "run `configcache migrate`" if layout.is_standard else "set cache.schema and cache.table right"
        return Unseen(f"there is no table {layout.name}: {mend}", is_fault=True)
    rows = await unless_refused("rows are not counted", overview.rows)
    leases: Leases | None = None
    if layout.is_standard and rows is not None:
        leases = await unless_refused("leases are not counted", overview.leases)
    return Cache(
        table=layout.name,
        rows=None if rows is None else rows[0],
        rows_are=None if rows is None else "exact" if rows[1] else "estimate",
        building=leases and leases.building,
        expired=leases and leases.expired,
        clear_fails=None if clear_fails is None else str(clear_fails),
        not_told=tuple(not_told),
    )


async def _clear_fails(overview: Overview, not_told: list[str], database: Database) -> TableFault | None:
    """Why a clear would fail; None if it would not, if that can't be tried, or if it is the server's state."""
    try:
        await overview.probe()
    except TableFault as fault:
        if fault.sqlstate is None:
            raise
        if fault.sqlstate == _INSUFFICIENT_PRIVILEGE:
            not_told.append(f"a clear was not tried: {_obstacle(fault, 'the table', database)}")
        elif fault.sqlstate != _READ_ONLY:
            return fault
    return None


def _obstacle(fault: TableFault, what: str, database: Database) -> str:
    """Why *what* can't be looked at."""
    if fault.sqlstate == _INSUFFICIENT_PRIVILEGE:
        return f"role {database.role} lacks a right on {what}"
    if fault.sqlstate == _UNDEFINED_TABLE:
        return f"{what} is not there"
    return str(fault)
