"""
Every statement on the cache table, built from the table's layout. Pure text: nothing here talks to a server.

A clear is one statement, and outside an explicit transaction therefore one transaction. It works in two steps, because
a plain DELETE over many scopes locks rows in whatever order its plan visits them, and two workers then deadlock:

1. ``locked`` visits the scopes in the given order, reads each one's range of the index in key order, and locks row by
   row. LATERAL makes the scopes the outer side of a nested loop whatever the planner estimates, and the limits stop it
   early: rows of a scope of a million that this chunk doesn't need are neither read nor locked. (One join over all
   scopes, sorted, would have to read and sort the whole scope again for every chunk.)
2. ``deleted`` deletes them where they are, by ``ctid``, which takes two thirds of the time of finding them again by their
   key. A row that somebody updated after the statement began is not deleted so: it is elsewhere by then, in a version that
   the statement's snapshot does not show. The statement therefore counts both, and where they differ another one, joined
   on the key, deletes the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configcache_worker.core.ports import Position, Scope

_KEY = ("application", "instance", "associate", "item")  # what the statements call the columns of the key
_LEAST_BIGINT = -(2**63)
_GREATEST_BIGINT = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TableLayout:
    """Where the cached rows are, and the columns that make up their key. Names as they are, unquoted."""

    schema: str | None = None
    """None: found by the connection's ``search_path``."""
    table: str = "configuration_cache"
    application: str = "application"
    instance: str = "instance"
    associate: str = "associate_id"
    item: str | None = "item"
    """None: the table has no such column. All rows of an associate then go together, more than the limit of a chunk too."""

    @property
    def name(self) -> str:
        """The table as SQL names it: quoted, and qualified where the schema is known."""
        parts = (self.table,) if self.schema is None else (self.schema, self.table)
        return ".".join(quoted(part) for part in parts)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the key, unquoted, in the order in which rows are locked."""
        names = (self.application, self.instance, self.associate)
        return names if self.item is None else (*names, self.item)

    @property
    def is_standard(self) -> bool:
        """Whether it is the table that the migrations create, in whatever schema; then it has all of its columns."""
        return self == TableLayout(schema=self.schema)


def quoted(identifier: str) -> str:
    """
    *identifier* as SQL must spell it to mean exactly these characters.

    Raises:
        ValueError: It is empty or contains NUL: no identifier of PostgreSQL.
    """
    if not identifier or "\0" in identifier:
        raise ValueError("an identifier of PostgreSQL has at least one character, and none that is NUL")
    return '"' + identifier.replace('"', '""') + '"'


def probe(layout: TableLayout) -> str:
    """A DELETE of no rows. Unlike ``SELECT 1`` it fails where a clear would: read-only, not migrated, no right."""
    return f"DELETE FROM {layout.name} WHERE false"


def clear_chunk(layout: TableLayout, *, by_key: bool) -> str:
    """
    Delete up to a limit of rows; takes what :func:`clear_chunk_arguments` gives.

    One row comes back: ``rows`` (how many were deleted), ``locked`` (how many there were to delete) and, only if the limit
    was reached, the last key: ``n`` (its scope among the given, from 1), ``associate`` and ``item``; otherwise these are
    null.

    Args:
        layout: The table.
        by_key: Also delete rows that are updated meanwhile. Without it they stay, and ``rows`` is less than ``locked``.
    """
    application, instance, associate, *items = (quoted(name) for name in layout.key)

    def with_item(sql: str) -> str:
        return sql if items else ""

    item = f"c.{items[0]}" if items else "''::text"
    position = f"c.{associate}" + with_item(f", {item}")
    same_row = "d.ctid = l.place AND d.tableoid = l.part"
    if by_key:
        same_row = " AND ".join(
            f"d.{quoted(column)} = l.{alias}" for column, alias in zip(layout.key, _KEY, strict=False)
        )
    # The row comparison is what lets a continued pass enter the index right behind its last key. It includes that key,
    # since '' and "everything" have no predecessor to be greater than; the filter after it leaves out the one row.
    return f"""\
WITH locked AS MATERIALIZED (
    SELECT s.n, s.application, s.instance, c.associate, c.item, c.place, c.part
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]{with_item(", $7::text[]")})
        WITH ORDINALITY AS s(application, instance, first_id, last_id{with_item(", first_item")}, n)
    CROSS JOIN LATERAL (
        SELECT c.{associate} AS associate, {item} AS item, c.ctid AS place, c.tableoid AS part
        FROM {layout.name} AS c
        WHERE c.{application} = s.application AND c.{instance} = s.instance
            AND ({position}) >= (s.first_id{with_item(", s.first_item")}) AND c.{associate} <= s.last_id
            AND (s.n, {position}) IS DISTINCT FROM (1, $6::bigint{with_item(", $8::text")})
        ORDER BY {position}
        LIMIT $5
        FOR UPDATE OF c
    ) AS c
    LIMIT $5
), deleted AS (
    DELETE FROM {layout.name} AS d
    USING locked AS l
    WHERE {same_row}
    RETURNING 1
)
SELECT (SELECT count(*) FROM deleted) AS rows, (SELECT count(*) FROM locked) AS locked,
    last.n, last.associate, last.item
FROM (VALUES (1)) AS always
LEFT JOIN (SELECT n, associate, item FROM locked OFFSET $5 - 1) AS last ON true"""


def clear_chunk_arguments(
    layout: TableLayout, scopes: Sequence[Scope], *, after: Position | None, limit: int
) -> list[object]:
    """
    The parameters of :func:`clear_chunk`: each scope as a range of associates, the first one cut at *after*.

    Args:
        layout: The layout the statement was built from.
        scopes: Sorted and disjoint, the whole pass.
        after: The last key already cleared; scopes before it are dropped.
        limit: Most rows to delete.
    """
    remaining = scopes if after is None else scopes[after.scope :]
    first_ids = [_LEAST_BIGINT if s.associate_id is None else s.associate_id for s in remaining]
    last_ids = [_GREATEST_BIGINT if s.associate_id is None else s.associate_id for s in remaining]
    first_items = [""] * len(remaining)
    if after is not None:
        first_ids[0], first_items[0] = after.associate_id, after.item
    arguments: list[object] = [
        [s.application for s in remaining],
        [s.instance for s in remaining],
        first_ids,
        last_ids,
        limit,
        None if after is None else after.associate_id,
    ]
    return (
        arguments if layout.item is None else [*arguments, first_items, None if after is None else after.item]
    )


def insert_rows(layout: TableLayout) -> str:
    """
    Add rows, for tools and tests; those that are there already stay as they are.

    Parameters: four arrays of equal length (applications, instances, associates, items), and one content for all. The
    content goes into our own table only: of a user's own we know the key and nothing else. Items are left out where
    the table has none.
    """
    target = [quoted(column) for column in layout.key]
    source = [f"s.{alias}" for alias, _ in zip(_KEY, layout.key, strict=False)]
    if layout.key == TableLayout().key:
        target.append("xml")
        source.append("content.xml")
    return f"""\
INSERT INTO {layout.name} ({", ".join(target)})
SELECT {", ".join(source)}
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS s({", ".join(_KEY)})
CROSS JOIN (VALUES ($5::text)) AS content(xml)
ON CONFLICT DO NOTHING"""


def select_keys(layout: TableLayout) -> str:
    """The keys of all cached rows, in no order. In our own table, those without content are only being built."""
    cached = " WHERE xml IS NOT NULL" if layout.key == TableLayout().key else ""
    return f"SELECT {', '.join(map(quoted, layout.key))} FROM {layout.name}{cached}"
