"""The benchmark's own arithmetic: what it would be wrong to believe."""

from __future__ import annotations

import dataclasses
import itertools
import struct
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest

from benchmarks import report, workloads
from benchmarks.charts import bars, number_text
from benchmarks.contenders import DRAMATIQ, LIMIT, OURS, envelope
from benchmarks.contenders.broker_limit import cut
from benchmarks.goals import GOALS
from benchmarks.load import read_changes
from benchmarks.results import Conditions, Drain, Latency, Results, from_json, to_json
from benchmarks.stats import Spread, percentile, ratios
from benchmarks.suite import FULL, QUICK, rounds
from configcache import ClearConfigurationCache, ContractError
from configcache.wire import decode, encode

CONDITIONS = Conditions(processors=2, python="3.11", rabbitmq="3.10", postgresql="15", quick=False)
DRAIN = Drain(
    round=1,
    contender=OURS.name,
    workload="distinct",
    title="distinct commands",
    workers=1,
    messages=1_002,
    counted=1_000,
    rows=1_000,
    seconds=0.5,
    worker_cpu=4.0,
    broker_cpu=2.0,
    database_cpu=3.0,
    peak_mb=40.0,
    early_mb=39.0,
)


def drained(**changes):
    return dataclasses.replace(DRAIN, **changes)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5], 50, 5), ([3, 1, 2], 50, 2), (range(1, 101), 99, 99), (range(1, 1001), 99, 990), ([1, 2], 100, 2)],
)
def test_a_percentile_is_a_value_that_was_measured(values, percent, expected):
    assert percentile(list(values), percent) == expected


def test_a_spread_is_the_median_between_least_and_most():
    assert Spread.of([3.0, 1.0, 8.0]) == (3.0, 1.0, 8.0)
    assert Spread.of([]) is None


def test_ratios_are_taken_within_a_round_and_leave_out_rounds_without_a_partner():
    above = [drained(round=1, counted=100), drained(round=2, counted=300), drained(round=3, counted=1)]
    below = [drained(round=2, counted=100), drained(round=1, counted=50)]

    found = ratios(above, below, lambda each: each.per_s, lambda each: each.round)

    assert found == (2.5, 2.0, 3.0)


def test_messages_done_before_the_clock_ran_do_not_count():
    assert DRAIN.per_s == 2_000


def test_every_round_has_everybody_once_and_begins_with_another():
    found = list(rounds(3, "abc"))

    assert [each for number, each in found if number == 1] == ["a", "b", "c"]
    assert [each for number, each in found if number == 2] == ["b", "c", "a"]
    assert Counter(each for _, each in found) == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize("sizes", [FULL, QUICK])
def test_everybody_has_a_size(sizes):
    assert {contender.name for contender in report.CONTENDERS} == set(sizes.commands)


def test_results_survive_the_file():
    latency = Latency(
        round=1,
        contender="x",
        load="100/s",
        per_s=100,
        commands=10,
        p50_ms=1.25,
        p99_ms=2.5,
        max_ms=3.0,
        late_p99_ms=0.1,
    )
    results = Results(CONDITIONS, contenders=[DRAIN], latencies=[latency])

    assert from_json(to_json(results)) == results


def test_a_goal_tells_apart_what_is_missed_reached_and_better():
    at_least, at_most = GOALS[0], GOALS[6]

    assert [at_least.verdict(Spread(x, x, x)) for x in (0.27, 0.28, 0.45)] == [
        "**missed**",
        "reached",
        "aim reached",
    ]
    assert [at_most.verdict(Spread(x, x, x)) for x in (0.04, 0.02, 0.01)] == [
        "**missed**",
        "reached",
        "aim reached",
    ]
    assert at_least.verdict(None) == "not measured"


def test_the_first_goal_compares_us_with_the_limit():
    results = Results(CONDITIONS, contenders=[DRAIN, drained(contender=LIMIT.name, counted=4_000)])

    assert GOALS[0].measure(results) == (0.25, 0.25, 0.25)


def test_nothing_measured_is_no_goal_reached():
    assert {goal.verdict(goal.measure(Results(CONDITIONS))) for goal in GOALS} == {"not measured"}


def test_a_chart_is_xml_whose_bars_are_as_long_as_their_values():
    svg = bars("A < B", "ms", {"one": [1.0, 1.0], "two": [4.0, 0.0]}, parts=("x", "y"))

    boxes = ElementTree.fromstring(svg).findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(box.get("width")) for box in boxes[3:]]
    assert widths == [100.0, 100.0, 400.0, 0.0]


@pytest.mark.parametrize(
    ("value", "text"), [(131_234, "131,000"), (1_026.4, "1,030"), (123.4, "123"), (4.236, "4.24"), (0, "0")]
)
def test_numbers_are_shown_with_three_figures(value, text):
    assert number_text(value) == text


def test_only_what_stands_between_marks_is_replaced():
    document = "before\n<!-- conditions -->\nold\n<!-- end -->\nafter\n"

    found = report.updated(document, Results(CONDITIONS))

    assert found.startswith("before\n<!-- conditions -->\nMeasured on 2 processors")
    assert found.endswith("<!-- end -->\nafter\n")
    assert "old" not in found


def test_the_document_and_its_charts_show_the_results_beside_it():
    results = report.read(report.FOLDER)
    document = report.DOCUMENT.read_text(encoding="utf-8")
    files = {path.name: path.read_text(encoding="utf-8") for path in report.FOLDER.glob("*.svg")}

    hint = "run: .venv/bin/python -m benchmarks.report docs/performance"
    assert report.updated(document, results) == document, hint
    assert report.charts(results) == files, hint


def test_commands_look_as_the_publisher_writes_them():
    command = ClearConfigurationCache.for_associate("WebClient", "Web", 42)

    assert workloads.for_associate(42) == encode(command)


@pytest.mark.parametrize(
    "workload",
    [
        workloads.distinct(500, table_rows=1_000),
        workloads.duplicates(500, 50),
        workloads.duplicates(500, 99),
        workloads.mixed(500),
        workloads.scopes(500),
        workloads.large_rows(50, kilobytes=8),
        workloads.large_scopes(5, rows=10),
        workloads.poisoned(500),
    ],
    ids=lambda workload: workload.name,
)
def test_a_workload_has_the_poison_it_says_and_the_marks_at_its_ends(workload):
    first, *between, last = workload.bodies()

    assert [first, last] == [mark.body for mark in workloads.MARKS]
    assert first not in between
    assert last not in between
    assert sum(map(is_poison, between)) == workload.poison


def test_marks_are_cleared_before_and_after_all_scopes_of_a_batch():
    first, *commands, last = [decode(body) for body in workloads.large_scopes(50, rows=10).bodies()]

    names = [(command.application, command.instance) for command in commands]
    assert (first.application, first.instance) < min(names)
    assert (last.application, last.instance) > max(names)


def is_poison(body):
    try:
        decode(body)
    except ContractError:
        return True
    return False


@pytest.mark.parametrize("percent", [50, 99])
def test_of_duplicates_so_many_repeat_another(percent):
    bodies = workloads.duplicates(1_000, percent).build()

    assert len(bodies) == 1_000
    assert len(bodies) - len(set(bodies)) == 10 * percent


def test_commands_come_in_no_order_but_always_the_same():
    associates = workloads.associates(1_000)

    assert associates == workloads.associates(1_000)
    assert sorted(associates) == list(range(1, 1_001))
    assert sum(after > before for before, after in itertools.pairwise(associates)) < 600


def test_the_envelope_carries_the_command_as_its_arguments():
    wrapped = DRAMATIQ.wrap(workloads.for_associate(42))

    assert b'"kwargs":' + workloads.for_associate(42) in wrapped
    assert b'"queue_name":"%b"' % envelope.QUEUE.encode() in wrapped


def test_the_limit_counts_whole_messages_and_keeps_the_rest():
    heartbeat = b"\x08\0\0\0\0\0\0\xce"
    body = struct.pack(">BHI", 3, 1, 4) + b"abcd\xce"

    assert cut(heartbeat + body + body + body[:-1]) == (2, len(heartbeat + body + body))
    assert cut(b"") == (0, 0)


def test_deletions_are_read_with_the_time_of_their_commit():
    begin = b"B" + struct.pack(">qqI", 1, 1_500_000, 7)
    columns = b"".join(b"t" + struct.pack(">I", len(text)) + text for text in (b"WebClient", b"Web", b"42"))
    delete = b"D" + struct.pack(">IcH", 16_384, b"K", 3) + columns

    assert read_changes([b"R...", begin, delete, b"C..."]) == {42: 946_684_801.5}
