"""Percentiles, medians and ratios of rounds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")


class Spread(NamedTuple):
    """A figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread | None:
        """Of *figures*, one for each round; None if there are none."""
        values = list(figures)
        return cls(statistics.median(values), min(values), max(values)) if values else None


def percentile(values: Sequence[float], percent: float) -> float:
    """The least of *values* that at least *percent* of them do not exceed."""
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


def ratios(
    above: Iterable[_T],
    below: Iterable[_T],
    figure: Callable[[_T], float | None],
    round_of: Callable[[_T], int],
) -> Spread | None:
    """*figure* of *above* for each of *below*, within each round that has both; None if there is no such round."""
    denominators = {round_of(each): figure(each) for each in below}
    found = []
    for each in above:
        numerator, denominator = figure(each), denominators.get(round_of(each))
        if numerator is not None and denominator:
            found.append(numerator / denominator)
    return Spread.of(found)
