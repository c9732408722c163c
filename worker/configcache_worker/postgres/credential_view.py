"""
Look at the view of the credentials as the gateway's role would use it, in PostgreSQL's catalog. Changes nothing.

What follows from the facts is left to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from asyncpg import Record

from configcache_worker.postgres.credentials import CREDENTIAL_VIEW
from configcache_worker.postgres.statements import quoted

_TEXT: Final = ("text", "character varying")
COLUMN_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "kind": _TEXT,
    "name": _TEXT,
    "secret_hash": _TEXT,
    "associate_id": ("bigint", "integer", "smallint"),
    "may_clear_all": ("boolean",),
    "expires_at": ("timestamp with time zone",),
}
"""The columns of the view, and which types each may have; the first is that of the view which the migrations create."""

# A domain counts as what it is based on.
_COLUMNS: Final = """\
SELECT a.attname::text AS name, format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, NULL) AS type
FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped"""

_RIGHTS: Final = """\
SELECT right_name FROM unnest($2::text[]) AS right_name WHERE has_table_privilege(to_regclass($1), right_name)"""

_IS_SUPERUSER: Final = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"

_ALL_RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")


class _Connection(Protocol):
    async def fetch(self, statement: str, *arguments: object) -> list[Record]: ...


class ViewFacts(NamedTuple):
    """What there is, and what the role may do."""

    view: str
    """Its name, quoted."""
    columns: Mapping[str, str]
    """Types by name. Empty where there is no such view."""
    is_superuser: bool
    rights: frozenset[str]
    """Of the role, on the view."""
    rights_on_cache: frozenset[str]
    """Of the role, on the table of the cached rows, which is no business of the gateway's."""


async def view_facts(connection: _Connection, *, schema: str, cache_table: str) -> ViewFacts:
    """
    The facts about the view in *schema*.

    Args:
        connection: Of the gateway's role.
        schema: Where the view is.
        cache_table: The quoted name of the table of the cached rows.

    Raises:
        TableFault: The database could not be asked.
    """
    view = f"{quoted(schema)}.{CREDENTIAL_VIEW}"
    columns = await connection.fetch(_COLUMNS, view)
    ((is_superuser,),) = await connection.fetch(_IS_SUPERUSER)
    return ViewFacts(
        view,
        {row["name"]: row["type"] for row in columns},
        bool(is_superuser),
        await _rights(connection, view),
        await _rights(connection, cache_table),
    )


async def _rights(connection: _Connection, relation: str) -> frozenset[str]:
    rows = await connection.fetch(_RIGHTS, relation, list(_ALL_RIGHTS))
    return frozenset(row["right_name"] for row in rows)
