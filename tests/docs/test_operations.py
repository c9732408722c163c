"""The document for the night holds what the code says, and nothing else."""

import ast
import re
from pathlib import Path

import pytest

from configcache.errors import Reason
from configcache_worker.app import build_gateway, build_relay, build_worker
from configcache_worker.core.totals import PauseCause, RetryCause
from configcache_worker.observe.worker_metrics import FIRST_SESSION
from configcache_worker.postgres.backlog import Backlog
from configcache_worker.rabbitmq.deliveries import END_CAUSES
from configcache_worker.settings import BrokerSettings, DatabaseSettings, Settings

PROJECT = Path(__file__).parents[2]
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
RELIABILITY = (PROJECT / "docs" / "reliability.md").read_text()
METHODS = {"debug", "info", "warning", "error", "exception"}


def rows_after(mark):
    """The cells of each row of the table that follows the comment *mark*."""
    lines = OPERATIONS.partition(f"<!-- {mark} -->\n")[2].split("\n\n")[0].splitlines()[2:]
    return [line.split("|")[1:-1] for line in lines]


def table_after(mark):
    """First cells of that table."""
    return [row[0] for row in rows_after(mark)]


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
    source += (PROJECT / "worker/configcache_worker/observe/health.py").read_text()
    reasons = set(re.findall(r'(?:reasons|troubles)\["([a-z-]+)"\]', source))

    assert reasons == set(re.findall(r"reason `([a-z-]+)`", OPERATIONS))


def metrics_of(part):
    """What *part* tells, but of its process: name as on the wire, type and labels."""
    for family in part.metrics.registry.collect():
        name = family.name + "_total" * (family.type == "counter")
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        if not name.startswith("process_"):
            yield name, family.type, labels


def documented_metrics(mark):
    for row in rows_after(mark):
        (name,) = words([row[0]])
        yield name, row[1].strip(), sorted(words([row[2]]))


async def test_every_metric_is_explained_with_its_type_and_labels_and_no_other(monkeypatch):
    settings = Settings(
        broker=BrokerSettings(url="amqp://nobody@localhost"),
        database=DatabaseSettings(url="postgresql://nobody@localhost/none"),
    )
    relay = build_relay(settings)
    monkeypatch.setattr(relay, "_waiting", Backlog(rows=0, oldest_s=0.0))

    assert sorted(documented_metrics("worker metrics")) == sorted(metrics_of(build_worker(settings)))
    assert sorted(documented_metrics("relay metrics")) == sorted(metrics_of(relay))
    assert sorted(documented_metrics("gateway metrics")) == sorted(metrics_of(build_gateway(settings)))


def test_every_word_in_a_label_of_a_metric_is_explained():
    (sessions, retries, paused) = (
        next(cells[3] for cells in rows_after("worker metrics") if name in cells[0])
        for name in ("sessions_total", "retries_total", "paused`")
    )

    assert set(words([sessions])) == {FIRST_SESSION, *END_CAUSES}
    assert set(words([retries])) == set(RetryCause)
    assert set(words([paused])) == set(PauseCause)


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
