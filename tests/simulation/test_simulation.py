"""Thousands of schedules on every run of the suite, and the simulation held to its own promises."""

import dataclasses
import random
import re
import subprocess
import sys

import pytest

from tests.simulation.mutants import MUTATIONS, PROJECT, apply, judge
from tests.simulation.plan import make_plan
from tests.simulation.run import simulate

SLICES = 8
SLICE = 250


@pytest.mark.parametrize("slice_number", range(SLICES))
def test_whatever_goes_wrong_no_promise_is_broken(slice_number):
    for seed in range(slice_number * SLICE, (slice_number + 1) * SLICE):
        outcome = simulate(seed)
        if outcome.violation:
            pytest.fail(str(simulate(seed, with_logs=True)))


def test_a_seed_is_the_same_schedule_every_time_and_in_every_process():
    seeds = range(20)
    show = "import sys; from tests.simulation.run import simulate\nfor n in range(20): print(simulate(n))"

    here = "".join(f"{simulate(seed)}\n" for seed in seeds)
    there = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout

    assert here == there


def test_every_fault_happens_in_some_schedule():
    missing = {
        "a cable was pulled",
        "consumer timeout",
        "the broker went away",
        "killed",
        "asked to stop",
        "cancelled",
        "sabotaged",
        "leaves a statement behind",
        "the table is away",
        "the connection was lost after the commit",
        "no answer in time",
        "TypeError",
        "statement timeout",
        "lock timeout",
        "the trigger refuses all",
        "the trigger refuses this row",
        "refused-by-database",
        "paused",
        "no more can be held meanwhile",
    }

    for seed in range(300):
        said = "\n".join(what for _, _, what in simulate(seed).history)
        missing = {words for words in missing if words not in said}
        if not missing:
            break

    assert not missing


def test_plans_differ_in_version_workers_and_bounds():
    plans = [make_plan(random.Random(seed)) for seed in range(100)]

    assert {plan.version for plan in plans} == {"3.10", "4.0", "4.3"}
    assert {plan.workers for plan in plans} == {1, 2, 3}
    assert len({plan.limits for plan in plans}) > 20


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_on_the_list_still_applies(mutation, tmp_path):
    apply(mutation, tmp_path)

    for edit in mutation.edits:
        assert (tmp_path / edit.path).read_text() != (PROJECT / edit.path).read_text()
        compile((tmp_path / edit.path).read_text(), edit.path, "exec")


@pytest.mark.parametrize("mutation", MUTATIONS[:3], ids=lambda mutation: mutation.name)
def test_a_broken_promise_is_noticed(mutation, tmp_path):
    verdict, _ = judge(mutation, tmp_path)

    assert verdict.startswith("noticed: seed")


def test_a_broken_schedule_is_printed_so_that_it_can_be_read_and_run_again():
    outcome = simulate(7, with_logs=True)

    said = str(dataclasses.replace(outcome, violation="#1 was acked before its rows were gone"))

    assert said.startswith("seed 7: #1 was acked before its rows were gone\nPlan(")
    assert re.search(r"^ +\d+\.\d{3}  producer +#1 b'", said, re.MULTILINE)
    assert re.search(r"^ +\d+\.\d{3}  log +info worker\.started", said, re.MULTILINE)
