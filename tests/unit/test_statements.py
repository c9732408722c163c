"""The statements on the cache table, as far as they are pure: names and parameters. What they do is tested on a server."""

from __future__ import annotations

import pytest

from configcache_worker.core.ports import Position, Scope
from configcache_worker.postgres.statements import (
    TableLayout,
    clear_chunk,
    clear_chunk_arguments,
    probe,
    quoted,
)

LEAST, GREATEST = -(2**63), 2**63 - 1
WEB = Scope("WebClient", "Web", None)
WEB_42 = Scope("WebClient", "Web", 42)


@pytest.mark.parametrize(
    ("identifier", "sql"),
    [
        ("item", '"item"'),
        ("Associate Id", '"Associate Id"'),
        ('a"; DROP TABLE b; --', '"a""; DROP TABLE b; --"'),
        ("größe.x", '"größe.x"'),
    ],
)
def test_a_quoted_identifier_means_exactly_its_characters(identifier, sql):
    assert quoted(identifier) == sql


@pytest.mark.parametrize("identifier", ["", "a\0b"])
def test_what_cannot_be_an_identifier_is_refused(identifier):
    with pytest.raises(ValueError, match="identifier"):
        quoted(identifier)


def test_a_table_without_a_schema_is_left_to_the_search_path():
    assert probe(TableLayout()) == 'DELETE FROM "configuration_cache" WHERE false'
    assert probe(TableLayout(schema="my.app")) == 'DELETE FROM "my.app"."configuration_cache" WHERE false'


@pytest.mark.parametrize("by_key", [True, False])
def test_every_name_of_a_layout_reaches_the_statement_quoted(by_key):
    layout = TableLayout('s"s', 't"t', 'a"a', 'i"i', 'n"n', 'x"x')

    statement = clear_chunk(layout, by_key=by_key)

    for name in ('"s""s"."t""t"', '"a""a"', '"i""i"', '"n""n"', '"x""x"'):
        assert name in statement


def test_a_fresh_pass_covers_each_scope_whole():
    arguments = clear_chunk_arguments(TableLayout(), [WEB, WEB_42], after=None, limit=7)

    assert arguments == [
        ["WebClient", "WebClient"],
        ["Web", "Web"],
        [LEAST, 42],
        [GREATEST, 42],
        7,
        None,
        ["", ""],
        None,
    ]


def test_a_continued_pass_drops_what_is_done_and_cuts_the_scope_it_stands_in():
    scopes = [Scope("A", "I", 1), Scope("B", "I", None), Scope("C", "I", 3)]

    arguments = clear_chunk_arguments(TableLayout(), scopes, after=Position(1, 20, "menu"), limit=7)

    assert arguments == [["B", "C"], ["I", "I"], [20, 3], [GREATEST, 3], 7, 20, ["menu", ""], "menu"]


def test_without_an_item_column_neither_statement_nor_parameters_know_one():
    layout = TableLayout(item=None)

    arguments = clear_chunk_arguments(layout, [WEB_42], after=Position(0, 42, ""), limit=7)

    assert arguments == [["WebClient"], ["Web"], [42], [42], 7, 42]
    for by_key in (True, False):
        assert "$6" in clear_chunk(layout, by_key=by_key)
        assert "$7" not in clear_chunk(layout, by_key=by_key)
