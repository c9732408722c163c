from __future__ import annotations

import random
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from configcache.retry import RetryPolicy


class Highest(random.Random):
    """Draws the highest value every time."""

    def uniform(self, a, b):
        return b


def test_the_bound_doubles_from_the_first_delay_up_to_the_longest():
    policy = RetryPolicy(first_s=0.05, longest_s=1.0, random=Highest())

    bounds = [policy.delay_s(attempt) for attempt in range(1, 8)]

    assert bounds == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_delays_spread_over_the_whole_range_down_to_zero():
    policy = RetryPolicy(first_s=8.0, longest_s=8.0, random=random.Random(1))

    delays_s = [policy.delay_s(1) for _ in range(1_000)]

    assert min(delays_s) < 0.1
    assert max(delays_s) > 7.9
    assert 3.5 < sum(delays_s) / len(delays_s) < 4.5


@given(st.integers(1, 10**9))
def test_no_delay_is_negative_or_longer_than_the_longest_however_many_attempts(attempt):
    assert 0.0 <= RetryPolicy().delay_s(attempt) <= RetryPolicy().longest_s


def test_serves_as_a_wait_policy_of_tenacity():
    policy = RetryPolicy(first_s=0.05)

    assert 0.0 <= policy(SimpleNamespace(attempt_number=1)) <= 0.05
