"""
Does the table fit? Compares a :class:`~.statements.TableLayout` with PostgreSQL's catalog, before anything is cleared.

A table of the user's own may hold surprises that no statement would report: a null item that is never deleted, a
collation that takes ``web`` for ``Web``, a missing index that makes every clear read the whole table. Each one is named
together with the SQL that mends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from configcache_worker.postgres.statements import TableLayout, quoted

if TYPE_CHECKING:
    from asyncpg import Record


class TableNotReady(Exception):
    """What the worker needs isn't there yet. Wait: somebody may be about to migrate or to grant."""


class TableMissing(TableNotReady):
    """There is no such table, or this role may not see it."""


class RightsMissing(TableNotReady):
    """This role may not do with the table what clearing takes."""


class LayoutError(Exception):
    """
    The table can't serve as it is; waiting won't help.

    Attributes:
        problems: What is wrong, and how to mend it; one sentence or more each.
    """

    def __init__(self, table: str, problems: Sequence[str]) -> None:
        super().__init__(f"table {table}: " + " ".join(problems))
        self.problems = tuple(problems)


class _Connection(Protocol):
    async def fetch(self, statement: str, *arguments: object) -> list[Record]: ...


_TABLE_KINDS = {b"r": None, b"p": None, b"v": "a view", b"m": "a materialized view", b"f": "a foreign table"}

# Locking a row (FOR UPDATE) takes the UPDATE right on a column of it, though nothing is updated. Where single columns are
# granted, the system's own ctid (-1) and tableoid (-6) must be among them.
_TABLE = """\
SELECT c.oid, c.relkind,
    has_any_column_privilege(c.oid, 'SELECT')
        AND has_column_privilege(c.oid, (-1)::smallint, 'SELECT')
        AND has_column_privilege(c.oid, (-6)::smallint, 'SELECT')
        AND has_any_column_privilege(c.oid, 'UPDATE')
        AND has_table_privilege(c.oid, 'DELETE') AS is_allowed
FROM pg_catalog.pg_class AS c
WHERE c.oid = to_regclass($1)"""

# A domain counts as what it is based on.
_COLUMNS = """\
SELECT a.attname::text AS name, a.attnotnull AS is_not_null,
    format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, NULL) AS type,
    coalesce(o.collisdeterministic, true) AS is_deterministic
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation AS o ON o.oid = a.attcollation
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped"""

# An index serves a comparison only in its own collation.
_LEADING_INDEX_COLUMNS = """\
SELECT array_agg(a.attname::text) AS names
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am AS m ON m.oid = c.relam AND m.amname = 'btree'
CROSS JOIN generate_series(0, 1) AS n
JOIN pg_catalog.pg_attribute AS a
    ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n] AND a.attcollation = i.indcollation[n]
WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL
GROUP BY i.indexrelid"""

_NAME_TYPES = ("text", "character varying")
_ID_TYPES = ("smallint", "integer", "bigint")


# Of just these columns, not partial, and not checked only at the end of a transaction.
_IS_KEY_ONLY_INDEX = """\
SELECT count(*) = 1 AND bool_and(
    i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    AND i.indnatts = i.indnkeyatts
    AND (
        SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FROM pg_catalog.pg_attribute AS a
        WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
    ) = $2::text[]
) AS is_so
FROM pg_catalog.pg_index AS i
WHERE i.indrelid = $1"""


async def check_layout(connection: _Connection, layout: TableLayout) -> bool:
    """
    Make sure that clearing *layout* would work, and would clear what it should.

    Returns:
        Whether the only index of the table is a unique one of its key: no two rows can have the same, and there is only one
        way to find them.

    Raises:
        TableNotReady: The table, or a right on it, is missing.
        LayoutError: The table exists and can't serve as it is.
        TableFault: The catalog could not be read.
    """
    tables = await connection.fetch(_TABLE, layout.name)
    if not tables:
        raise TableMissing(
            f"there is no table {layout.name}: run `configcache migrate`, or name yours in the settings"
        )
    (table,) = tables
    if kind := _TABLE_KINDS.get(table["relkind"], "no table"):
        raise LayoutError(layout.name, [f"It is {kind}; name the table whose rows are to be deleted."])
    columns = {column["name"]: column for column in await connection.fetch(_COLUMNS, table["oid"])}
    indexes = [index["names"] for index in await connection.fetch(_LEADING_INDEX_COLUMNS, table["oid"])]
    if problems := [*_column_problems(layout, columns), *_index_problems(layout, indexes)]:
        raise LayoutError(layout.name, problems)
    if not table["is_allowed"]:
        raise RightsMissing(
            f"this role may not clear {layout.name}: GRANT SELECT, UPDATE, DELETE ON {layout.name} to it "
            "(UPDATE is what locking rows in order takes; of single columns, SELECT takes ctid and tableoid as well)"
        )
    (only_index,) = await connection.fetch(_IS_KEY_ONLY_INDEX, table["oid"], sorted(layout.key))
    return bool(only_index["is_so"])


def _column_problems(layout: TableLayout, columns: dict[str, Record]) -> Iterator[str]:
    for name in layout.key:
        column = columns.get(name)
        if column is None:
            yield f"It has no column {quoted(name)}; its columns are {', '.join(map(quoted, columns))}."
            continue
        types = _ID_TYPES if name == layout.associate else _NAME_TYPES
        alter = f"ALTER TABLE {layout.name} ALTER COLUMN {quoted(name)}"
        if column["type"] not in types:
            yield f"Column {quoted(name)} is of type {column['type']}, not {_either(types)}: {alter} TYPE {types[-1]}."
        elif not column["is_deterministic"]:
            yield f'Column {quoted(name)} takes different names for equal: {alter} TYPE {column["type"]} COLLATE "C".'
        if not column["is_not_null"]:
            yield f"Column {quoted(name)} may be null, and such a row would never be cleared: {alter} SET NOT NULL."


def _index_problems(layout: TableLayout, indexes: list[list[str]]) -> Iterator[str]:
    if not any(sorted(names) == sorted((layout.application, layout.instance)) for names in indexes):
        yield (
            f"No index leads with {quoted(layout.application)} and {quoted(layout.instance)}: "
            f"CREATE INDEX CONCURRENTLY ON {layout.name} ({', '.join(map(quoted, layout.key))})."
        )


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
