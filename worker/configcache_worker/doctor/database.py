"""What a worker would meet in the database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from configcache_worker.app import table_layout
from configcache_worker.core.ports import TableFault
from configcache_worker.doctor.findings import Finding, Report, State
from configcache_worker.postgres.catalog import LayoutError, RightsMissing, TableMissing
from configcache_worker.postgres.connection import TimeLimits
from configcache_worker.postgres.faults import sqlstate_of
from configcache_worker.postgres.inspection import Inspection
from configcache_worker.postgres.migrations import ConnectionFailed, MigrationError, migrate
from configcache_worker.postgres.statements import TableLayout, quoted
from configcache_worker.settings import CacheSettings, DatabaseSettings

DATABASE: Final = "database"
MIGRATIONS: Final = "migrations"
TABLE: Final = "table"
RIGHTS: Final = "database-rights"
WRITES: Final = "database-writes"

CHECKS: Final = (DATABASE, MIGRATIONS, TABLE, RIGHTS, WRITES)

_FIRST_MAJOR: Final = 12
"""The first that knows ``AS MATERIALIZED``."""

_MIGRATE: Final = "configcache migrate"
_INSUFFICIENT_PRIVILEGE: Final = "42501"

# What mends a write that fails though the table is there, by SQLSTATE.
_WRITE_MENDS: Final[Mapping[str, str]] = {
    "25006": "name the primary in database.url, or all hosts with ?target_session_attrs=read-write",
    "55P03": "find who holds the lock: SELECT * FROM pg_stat_activity WHERE state <> 'idle'",
}


async def examine(database: DatabaseSettings, cache: CacheSettings, report: Report) -> None:
    """Examine the database of *database* and the table of *cache*; stop where nothing answers."""
    layout = table_layout(cache)
    limits = TimeLimits.of(database)
    try:
        async with Inspection(
            database.url, layout=layout, limits=limits, cache_statements=database.statement_cache
        ) as looking:
            role = await _identity(looking, report)
            report(await _migrations(database, layout))
            findings = await _table(looking, layout, role)
            for finding in findings:
                report(finding)
            if all(finding.state is State.OK for finding in findings):
                report(await _writes(looking))
    except (TableFault, ConnectionFailed) as error:
        report(
            Finding(
                DATABASE, State.WRONG, str(error), "start PostgreSQL, or set CONFIGCACHE_DATABASE__URL right"
            )
        )


async def _identity(looking: Inspection, report: Report) -> str:
    """Report what answers, and give back as which role."""
    identity = await looking.identity()
    text = f"PostgreSQL {identity.version}, database {identity.database}, role {identity.role}"
    if identity.major < _FIRST_MAJOR:
        report(
            Finding(DATABASE, State.WRONG, f"{text}; it must be {_FIRST_MAJOR} or later", "update PostgreSQL")
        )
    else:
        report(Finding(DATABASE, State.OK, text))
    return identity.role


async def _migrations(database: DatabaseSettings, layout: TableLayout) -> Finding:
    if not layout.is_standard:
        return Finding(MIGRATIONS, State.SKIPPED, f"not needed: {layout.name} is a table of your own")
    try:
        pending = await migrate(
            database.url,
            schema=layout.schema,
            dry_run=True,
            connect_timeout_s=database.connect_timeout_s,
        )
    except MigrationError as error:
        if error.__cause__ and sqlstate_of(error.__cause__) == _INSUFFICIENT_PRIVILEGE:
            return Finding(
                MIGRATIONS,
                State.SKIPPED,
                f"not checked: {error}",
                f"{_MIGRATE} --dry-run, as the tables' owner",
            )
        return Finding(MIGRATIONS, State.WRONG, str(error))
    if pending:
        names = ", ".join(migration.name for migration in pending)
        return Finding(MIGRATIONS, State.WRONG, f"not applied: {names}", _MIGRATE)
    return Finding(MIGRATIONS, State.OK, "all are applied")


async def _table(looking: Inspection, layout: TableLayout, role: str) -> list[Finding]:
    """Whether the table fits, and whether *role* may clear it."""
    fits = Finding(TABLE, State.OK, f"{layout.name} has the columns and the index that are needed")
    try:
        await looking.check_layout()
    except TableMissing:
        mend = _MIGRATE if layout.is_standard else "set cache.schema and cache.table right"
        return [Finding(TABLE, State.WRONG, f"there is no table {layout.name}", mend)]
    except LayoutError as error:
        return [_layout_problem(layout, problem) for problem in error.problems]
    except RightsMissing:
        text = f"role {role} may not clear {layout.name}; UPDATE is what locking rows in order takes"
        grant = f"GRANT SELECT, UPDATE, DELETE ON {layout.name} TO {quoted(role)};"
        return [fits, Finding(RIGHTS, State.WRONG, text, grant)]
    except TableFault as fault:
        if fault.sqlstate != _INSUFFICIENT_PRIVILEGE or layout.schema is None:
            raise
        grant = f"GRANT USAGE ON SCHEMA {quoted(layout.schema)} TO {quoted(role)};"
        return [Finding(RIGHTS, State.WRONG, str(fault), grant)]
    return [fits, Finding(RIGHTS, State.OK, f"role {role} may clear it")]


def _layout_problem(layout: TableLayout, problem: str) -> Finding:
    """*problem* ends with the SQL that mends it, where SQL can."""
    parts = re.fullmatch(r"(.*): ((?:ALTER|CREATE) .*)\.", problem)
    text, mend = (parts[1], f"{parts[2]};") if parts else (problem, None)
    return Finding(TABLE, State.WRONG, f"{layout.name}: {text}", mend)


async def _writes(looking: Inspection) -> Finding:
    try:
        await looking.probe()
    except TableFault as fault:
        return Finding(WRITES, State.WRONG, str(fault), _WRITE_MENDS.get(fault.sqlstate or ""))
    return Finding(WRITES, State.OK, "a DELETE of no rows was committed")
