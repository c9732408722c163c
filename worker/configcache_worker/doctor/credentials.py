"""What a gateway would meet in the database: the view in which callers are looked up."""

from __future__ import annotations

from typing import Final

from configcache_worker.app import table_layout
from configcache_worker.core.ports import TableFault
from configcache_worker.doctor.findings import Finding, Report, State
from configcache_worker.postgres.connection import Connection, TimeLimits
from configcache_worker.postgres.credential_view import COLUMN_TYPES, ViewFacts, view_facts
from configcache_worker.postgres.statements import quoted
from configcache_worker.settings import CacheSettings, DatabaseSettings

DATABASE: Final = "database"
VIEW: Final = "credentials"
RIGHTS: Final = "credential-rights"

CHECKS: Final = (DATABASE, VIEW, RIGHTS)

_INSUFFICIENT_PRIVILEGE: Final = "42501"
_IDENTITY: Final = """\
SELECT current_setting('server_version'), current_database()::text, current_user::text"""


async def examine(database: DatabaseSettings, cache: CacheSettings, report: Report) -> None:
    """Examine the view in the schema of *cache*; stop where nothing answers."""
    connection = Connection(
        database.url,
        limits=TimeLimits.of(database),
        application_name="configcache doctor",
        settings={"default_transaction_read_only": "on"},
        cache_statements=database.statement_cache,
    )
    try:
        ((version, name, role),) = await connection.fetch(_IDENTITY)
        report(Finding(DATABASE, State.OK, f"PostgreSQL {version}, database {name}, role {role}"))
        await _view(connection, cache, role, report)
    except TableFault as fault:
        report(
            Finding(
                DATABASE, State.WRONG, str(fault), "start PostgreSQL, or set CONFIGCACHE_DATABASE__URL right"
            )
        )
    finally:
        await connection.close()


async def _view(connection: Connection, cache: CacheSettings, role: str, report: Report) -> None:
    try:
        facts = await view_facts(connection, schema=cache.schema_, cache_table=table_layout(cache).name)
        report(_columns(facts))
        if facts.columns:
            report(await _rights(connection, facts, role))
    except TableFault as fault:
        if fault.sqlstate != _INSUFFICIENT_PRIVILEGE:
            raise
        grant = f"GRANT USAGE ON SCHEMA {quoted(cache.schema_)} TO {quoted(role)};"
        report(Finding(RIGHTS, State.WRONG, str(fault), grant))


def _columns(facts: ViewFacts) -> Finding:
    """Whether the view is there, with all columns that are looked at."""
    if not facts.columns:
        return Finding(VIEW, State.WRONG, f"there is no view {facts.view}", "configcache migrate")
    problems = [
        f"column {name} is missing"
        if name not in facts.columns
        else f"column {name} is of type {facts.columns[name]}, not {types[0]}"
        for name, types in COLUMN_TYPES.items()
        if facts.columns.get(name) not in types
    ]
    if problems:
        return Finding(
            VIEW,
            State.WRONG,
            f"{facts.view}: {'; '.join(problems)}",
            "replace the view, as docs/gateway.md has it",
        )
    return Finding(VIEW, State.OK, f"{facts.view} has the columns that are needed")


async def _rights(connection: Connection, facts: ViewFacts, role: str) -> Finding:
    """Whether the role may read the view, and nothing beside it."""
    if facts.is_superuser:
        return Finding(
            RIGHTS,
            State.WARNING,
            f"role {role} is a superuser, and whoever breaks into the gateway is one too",
            f"connect as a role that may do nothing but this: GRANT SELECT ON {facts.view} TO ...;",
        )
    if "SELECT" not in facts.rights:
        grant = f"GRANT SELECT ON {facts.view} TO {quoted(role)};"
        return Finding(RIGHTS, State.WRONG, f"role {role} may not read {facts.view}", grant)
    try:
        await connection.fetch(f"SELECT FROM {facts.view} LIMIT 0")
    except TableFault as fault:
        if fault.sqlstate != _INSUFFICIENT_PRIVILEGE:
            raise
        # Its owner's, mostly: of a view, the owner's rights count for what is behind it.
        text = f"{facts.view} can't be read: {fault}"
        return Finding(RIGHTS, State.WRONG, text, "let the owner of the view read the tables behind it")
    excess = sorted(facts.rights - {"SELECT"})
    if excess:
        revoke = f"REVOKE {', '.join(excess)} ON {facts.view} FROM {quoted(role)};"
        text = f"role {role} may do more than read {facts.view}: {', '.join(excess)}"
        return Finding(RIGHTS, State.WARNING, text, revoke)
    if facts.rights_on_cache:
        return Finding(
            RIGHTS,
            State.WARNING,
            f"role {role} has rights on the table of the cached rows, which a gateway never touches: "
            + ", ".join(sorted(facts.rights_on_cache)),
            "connect as a role of the gateway's own",
        )
    return Finding(
        RIGHTS, State.OK, f"role {role} may read it, and neither change it nor see the cached rows"
    )
