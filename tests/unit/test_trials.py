"""What is held against which command, and when it is tried again."""

from configcache_worker.core.ports import Scope, TableFault
from configcache_worker.core.trials import Trials

REFUSED = TableFault("refused", sqlstate="P0001")
SEVEN = Scope("WebClient", "Web", 7)


def scopes(count):
    return [Scope("WebClient", "Web", number) for number in range(100, 100 + count)]


def test_three_different_commands_that_fail_with_nothing_going_through_are_an_outage():
    trials = Trials()

    for scope in scopes(3):
        assert not trials.is_outage
        trials.failed(scope, REFUSED)

    assert trials.is_outage
    trials.went_through([SEVEN], rows=0)
    assert not trials.is_outage


def test_one_command_that_fails_again_and_again_is_no_outage():
    trials = Trials()

    for _ in range(10):
        trials.postpone(SEVEN, trials.failed(SEVEN, REFUSED), due=0.0)

    assert not trials.is_outage


def test_a_clear_that_finds_no_rows_is_no_contrast():
    trials = Trials()

    for _ in range(10):
        suspicion = trials.failed(SEVEN, REFUSED)
        trials.postpone(SEVEN, suspicion, due=0.0)
        trials.went_through(scopes(1), rows=0)

    assert not suspicion.is_convicted


def test_a_command_that_goes_through_after_all_is_suspected_no_more():
    trials = Trials()
    trials.postpone(SEVEN, trials.failed(SEVEN, REFUSED), due=5.0)
    assert trials.due(SEVEN) == 5.0

    trials.went_through([SEVEN], rows=1)

    assert SEVEN not in trials
    assert trials.due(SEVEN) == 0.0


def test_in_an_outage_no_command_is_tried_before_the_others():
    trials = Trials()
    trials.not_before = 9.0

    assert trials.due(SEVEN) == 9.0
    trials.went_through(scopes(1), rows=1)
    assert trials.due(SEVEN) == 0.0


def test_memory_of_suspicions_is_bounded():
    trials = Trials()

    for scope in scopes(10_050):
        trials.postpone(scope, trials.failed(scope, REFUSED), due=1.0)

    remembered = [scope for scope in scopes(10_050) if scope in trials]
    assert len(remembered) == 10_000
    assert remembered[-1] == scopes(10_050)[-1]
