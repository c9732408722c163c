"""What a failed statement means, and when a command is convicted."""

import pytest

from configcache_worker.core.faults import LEAST_ROWS, Blame, Pace, blame, suspect
from configcache_worker.core.ports import TableFault


def fault(sqlstate):
    return TableFault("it failed", sqlstate=sqlstate)


@pytest.mark.parametrize(
    "sqlstate",
    [
        None,
        "08006",
        "0A000",
        "25006",
        "26000",
        "28P01",
        "3D000",
        "40001",
        "40P01",
        "42501",
        "42P01",
        "53100",
        "53300",
        "55P03",
        "57P01",
        "57P03",
        "58030",
        "XX000",
    ],
)
def test_outages_are_the_environments_fault(sqlstate):
    assert blame(fault(sqlstate)) is Blame.ENVIRONMENT


@pytest.mark.parametrize("sqlstate", ["22003", "23503", "54000", "P0001", "ZZ999", "25001"])
def test_data_errors_and_unknown_ones_are_tried_apart(sqlstate):
    assert blame(fault(sqlstate)) is Blame.COMMAND


def test_our_own_time_limit_asks_for_less():
    assert blame(TableFault("too slow", sqlstate="57014", timed_out=True)) is Blame.SIZE
    assert blame(TableFault("too slow", timed_out=True)) is Blame.SIZE


def test_the_pace_slows_down_to_one_command_and_a_hundred_rows_and_no_further():
    pace, tried, seen = Pace(scopes=1000, rows=5000), 1000, []

    while (slower := pace.slower(tried=tried)) is not None:
        pace, tried = slower, slower.scopes
        seen.append((pace.scopes, pace.rows))

    assert (1, 5000) in seen
    assert seen[-1] == (1, LEAST_ROWS)


def test_the_pace_recovers_to_the_most():
    most = Pace(scopes=1000, rows=5000)
    pace = Pace(scopes=1, rows=LEAST_ROWS)

    for _ in range(10):
        pace = pace.faster(most)

    assert pace == most


REFUSED = TableFault("refused", sqlstate="P0001")


def failed(*contrasts, fault=REFUSED):
    """The suspicion after failing alone at each of these counts of commands that had gone through."""
    suspicion = None
    for count in contrasts:
        suspicion = suspect(suspicion, fault, contrasts=count)
    return suspicion


def test_three_failures_with_others_going_through_in_between_convict():
    assert failed(0, 1, 2).is_convicted
    assert not failed(0, 1).is_convicted


def test_without_contrast_no_number_of_failures_convicts():
    assert not failed(*[7] * 100).is_convicted
    assert not failed(0, 1, *[1] * 100).is_convicted


def test_a_fault_of_this_program_never_convicts():
    bug = TableFault("TypeError", unexpected=True)

    assert not failed(*range(100), fault=bug).is_convicted
