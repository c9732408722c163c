"""The document for the night holds what the code says, and nothing else."""

import ast
import re
from pathlib import Path

import pytest

from configcache.errors import Reason

PROJECT = Path(__file__).parents[2]
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
RELIABILITY = (PROJECT / "docs" / "reliability.md").read_text()
METHODS = {"debug", "info", "warning", "error", "exception"}


def table_after(mark):
    """First cells of the table that follows the comment *mark*."""
    lines = OPERATIONS.partition(f"<!-- {mark} -->\n")[2].split("\n\n")[0].splitlines()[2:]
    return [line.split("|")[1] for line in lines]


def words(cells):
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def logged_events():
    """Every event the program logs, with its level and the fields given there."""
    for path in [*(PROJECT / "worker").rglob("*.py"), *(PROJECT / "contracts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr=level), args=[ast.Constant(value=str(event))]) if (
                    level in METHODS and re.fullmatch(r"[a-z]+\.[a-z_]+", event)
                ):
                    fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                    yield event, "error" if level == "exception" else level, fields


def test_every_log_event_is_explained_and_no_other():
    documented = words(table_after("events"))

    assert sorted(documented) == sorted({event for event, _, _ in logged_events()} | {"library.logged"})


@pytest.mark.parametrize(("event", "level", "fields"), list(logged_events()))
def test_level_and_fields_of_an_event_are_those_of_the_code(event, level, fields):
    (row,) = [line for line in OPERATIONS.splitlines() if line.startswith(f"| `{event}` |")]
    _, _, said_level, said_fields, *_ = row.split("|")

    assert said_level.strip() == level
    assert fields - {"consequence"} <= set(words([said_fields]))


def test_every_reason_of_a_dead_letter_has_its_advice():
    assert sorted(words(table_after("reasons"))) == sorted(reason.value for reason in Reason)


def test_every_reason_of_readiness_is_explained():
    source = (PROJECT / "worker/configcache_worker/app.py").read_text()
    source += (PROJECT / "worker/configcache_worker/core/pipeline.py").read_text()
    source += (PROJECT / "worker/configcache_worker/relay.py").read_text()
    source += (PROJECT / "worker/configcache_worker/gateway/gateway.py").read_text()
    source += (PROJECT / "worker/configcache_worker/gateway/callers.py").read_text()
    reasons = set(re.findall(r'(?:reasons|troubles)\["([a-z-]+)"\]', source))

    assert reasons == set(re.findall(r"reason `([a-z-]+)`", OPERATIONS))


def test_every_row_of_the_fault_matrix_is_listed():
    rows = set()
    for path in (PROJECT / "tests" / "chaos").glob("test_*.py"):
        rows |= {int(number) for number in re.findall(r"mark\.row\(\s*(\d+),", path.read_text())}
    listed = {
        int(number)
        for cell in re.findall(r"^\| ([\d, ]+) \|", RELIABILITY.partition("## The rows")[2], re.MULTILINE)
        for number in cell.split(",")
    }

    assert rows == listed == set(range(1, 34))
