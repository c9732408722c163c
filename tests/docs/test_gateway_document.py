"""The page on the gateway says of each part of the classic call which tests show it, and they are there."""

import ast
import re

import pytest

from configcache_worker.gateway.body import READERS
from tests.docs.documents import PROJECT

PAGE = (PROJECT / "docs" / "gateway.md").read_text(encoding="utf-8")
ROWS = PAGE.partition("<!-- classic call -->\n")[2].split("\n\n")[0].splitlines()[2:]


def names_of_tests():
    """The names of all tests."""
    for path in (PROJECT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.name


TESTS = set(names_of_tests())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_each_part_of_the_classic_call_names_tests_that_are_there(row):
    named = set(re.findall(r"`(test_\w+)`", row))

    assert named
    assert named <= TESTS


def test_every_content_type_that_is_read_is_on_the_page():
    assert set(READERS) <= set(re.findall(r"`([a-z]+/[a-z+-]+)`", PAGE))
