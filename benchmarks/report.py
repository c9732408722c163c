"""
Tables and charts from what was measured, and the document that shows them.

    python -m benchmarks.report FOLDER      write the figures in FOLDER into docs/performance.md and docs/performance/

Between a line ``<!-- NAME -->`` and a line ``<!-- end -->`` stands the table of that name; all else in the document is
written by hand. Pure but for reading and writing files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from benchmarks.charts import bars, number_text
from benchmarks.contenders import BARE_ENDPOINT, CONTENDERS, GATEWAY
from benchmarks.goals import GOALS
from benchmarks.results import Drain, Results, from_json, to_json
from benchmarks.stats import Spread

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "performance.md"
FOLDER: Final = DOCUMENT.with_suffix("")
RESULTS: Final = "results.json"

_TITLES: Final = {contender.name: contender.title for contender in (*CONTENDERS, GATEWAY, BARE_ENDPOINT)}
_SLOT: Final = re.compile(r"(<!-- ([\w-]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)
_NO_FIGURE: Final = "-"


def goals(results: Results) -> str:
    """Every goal, with its figure and whether it is reached."""
    rows = []
    for goal in GOALS:
        figure = goal.measure(results)
        sign = "≥" if goal.at_least else "≤"
        rows.append(
            (
                goal.title,
                _spread(figure),
                *(
                    f"{sign} {limit if isinstance(limit, Fraction) else number_text(limit)} {goal.unit}"
                    for limit in (goal.must, goal.aim)
                ),
                goal.verdict(figure),
            )
        )
    return _table(("figure", "median (least to most)", "must", "aim", "verdict"), rows)


def contenders(results: Results) -> str:
    """Everybody over the same backlog."""
    groups = _groups(results.contenders, attrgetter("contender"))
    order = sorted(groups, key=lambda name: -_median(groups[name], "per_s"))
    rows = [
        (
            _TITLES[name],
            *_drain_figures(groups[name]),
            f"{groups[name][0].counted:,} in {_median(groups[name], 'seconds'):.1f} s",
        )
        for name in order
    ]
    return _table(("worker", *_DRAIN_COLUMNS, "measured over"), rows)


def workloads(results: Results) -> str:
    """Us, over backlogs of all kinds."""
    rows = [
        (
            some[0].title,
            *_drain_figures(some),
            # Where a message clears about one row, or none, the rate of messages says it all.
            _spread(
                _spread_of(some, lambda each: each.rows / each.seconds if each.rows > each.counted else None)
            ),
        )
        for some in _groups(results.workloads, attrgetter("workload")).values()
    ]
    return _table(("backlog", *_DRAIN_COLUMNS, "rows/s"), rows)


def latencies(results: Results) -> str:
    """Publish to row gone."""
    rows = [
        (
            _TITLES[some[0].contender],
            f"{load}" if load.endswith("/s") else f"{load}: {number_text(some[0].per_s)}/s",
            *(_spread(_spread_of(some, attrgetter(field))) for field in ("p50_ms", "p99_ms", "max_ms")),
            number_text(max(each.late_p99_ms for each in some)),
        )
        for (load, _), some in _groups(results.latencies, attrgetter("load", "contender")).items()
    ]
    return _table(("worker", "rate", "p50, ms", "p99, ms", "longest, ms", "of it the generator, p99"), rows)


def scale(results: Results) -> str:
    """Backlogs of several sizes, and several workers."""
    rows = [(f"{each.messages:,}", str(each.workers), *_drain_figures([each])) for each in results.scale]
    return _table(("backlog", "workers", *_DRAIN_COLUMNS), rows)


def gateways(results: Results) -> str:
    """The gateway beside a bare endpoint."""
    rows = [
        (
            _TITLES[name],
            *(_spread(_spread_of(some, attrgetter(field))) for field in ("per_s", "cpu", "p50_ms", "p99_ms")),
        )
        for name, some in _groups(results.serving, attrgetter("contender")).items()
    ]
    return _table(("endpoint", "requests/s", "its CPU, ms for 1,000", "p50, ms", "p99, ms"), rows)


def others(results: Results) -> str:
    """Gap, publisher, watched or not, memory."""
    rows = [
        (
            f"longest time without a commit after a cut: {_TITLES[name]}",
            _in(_spread_of(some, attrgetter("seconds")), "s"),
        )
        for name, some in _groups(results.gaps, attrgetter("contender")).items()
    ]
    rows += [
        (f"published, {window} awaited at once", _in(_spread_of(some, attrgetter("per_s")), "commands/s"))
        for window, some in _groups(results.publishing, attrgetter("window")).items()
    ]
    rows += [
        (f"drained, {told}", _in(_spread_of(some, attrgetter("per_s")), "messages/s"))
        for told, some in _groups(results.telemetry, attrgetter("told")).items()
    ]
    rows += [(f"peak resident memory, {each.situation}", f"{each.peak_mb:.1f} MB") for each in results.memory]
    return _table(("what", "median (least to most)"), rows)


def conditions(results: Results) -> str:
    """Where it was measured, as a sentence."""
    where = results.conditions
    return (
        f"Measured on {where.processors} processors, which broker, database, load generator and workers shared: RabbitMQ"
        f" {where.rabbitmq}, PostgreSQL {where.postgresql}, Python {where.python}."
        + (" **A quick run: figures of the wrong size.**" if where.quick else "")
        + "\n"
    )


TABLES: Final[Mapping[str, Callable[[Results], str]]] = {
    "conditions": conditions,
    "goals": goals,
    "contenders": contenders,
    "workloads": workloads,
    "latencies": latencies,
    "scale": scale,
    "gateways": gateways,
    "others": others,
}
"""By the names that the document uses."""


def charts(results: Results) -> dict[str, str]:
    """Name of the file to the SVG in it."""
    groups = _groups(results.contenders, attrgetter("contender"))
    order = sorted(groups, key=lambda name: -_median(groups[name], "per_s"))
    processors = ("worker_cpu", "broker_cpu", "database_cpu")
    backlogs = _groups(results.workloads, attrgetter("workload")).values()
    workers = [each for each in results.scale if each.messages == _of_workers(results.scale)]
    return {
        "rates.svg": bars(
            "Messages drained, per second",
            "/s",
            {_TITLES[name]: [_median(groups[name], "per_s")] for name in order},
        ),
        "costs.svg": bars(
            "Processor time for 1,000 messages",
            "ms",
            {_TITLES[name]: [_median(groups[name], part) for part in processors] for name in order},
            parts=("worker", "broker", "database"),
        ),
        "workloads.svg": bars(
            "Messages drained by kind of backlog, per second",
            "/s",
            {some[0].title: [_median(some, "per_s")] for some in backlogs if some[0].messages > _FEW},
        ),
        "workers.svg": bars(
            "Messages drained by several workers, per second",
            "/s",
            {f"{each.workers} worker{'s' * (each.workers > 1)}": [each.per_s] for each in workers},
        ),
    }


_FEW: Final = 1_000
"""A backlog of fewer messages is measured in rows, not in messages."""


def updated(document: str, results: Results) -> str:
    """*document* with the tables of *results* in their places."""
    return _SLOT.sub(lambda slot: f"{slot[1]}{TABLES[slot[2]](results)}{slot[3]}", document)


def read(folder: Path) -> Results:
    """The results that :func:`write` left in *folder*."""
    return from_json((folder / RESULTS).read_text(encoding="utf-8"))


def write(results: Results, folder: Path) -> None:
    """Write *results*, and their charts, into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {RESULTS: to_json(results), **charts(results)}.items():
        (folder / name).write_text(text, encoding="utf-8")


def publish(results: Results) -> None:
    """Write *results* into the documents."""
    write(results, FOLDER)
    DOCUMENT.write_text(updated(DOCUMENT.read_text(encoding="utf-8"), results), encoding="utf-8")


_DRAIN_COLUMNS: Final = ("messages/s", "worker ms", "broker ms", "database ms", "peak MB")


def _drain_figures(some: Sequence[Drain]) -> tuple[str, ...]:
    fields = ("per_s", "worker_cpu", "broker_cpu", "database_cpu", "peak_mb")
    return tuple(_spread(_spread_of(some, attrgetter(field))) for field in fields)


def _of_workers(scale: Sequence[Drain]) -> int | None:
    """The size of the backlog that several workers were given."""
    return next((each.messages for each in scale if each.workers > 1), None)


def _groups(these: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """In the order in which each was first met."""
    found: dict[Any, list[Any]] = {}
    for each in these:
        found.setdefault(key(each), []).append(each)
    return found


def _spread_of(some: Iterable[Any], figure: Callable[[Any], float | None]) -> Spread | None:
    return Spread.of(value for each in some if (value := figure(each)) is not None)


def _median(some: Iterable[Any], field: str) -> float:
    spread = _spread_of(some, attrgetter(field))
    return spread.median if spread else 0.0


def _spread(figure: Spread | None) -> str:
    if figure is None:
        return _NO_FIGURE
    median, least, most = map(number_text, figure)
    return median if figure.least == figure.most else f"{median} ({least} to {most})"


def _in(figure: Spread | None, unit: str) -> str:
    return f"{_spread(figure)} {unit}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    publish(read(Path(sys.argv[1])))
