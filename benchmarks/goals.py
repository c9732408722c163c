"""What the worker has to reach, what it aims at, and whether it does. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from typing import Any, Final

from benchmarks.contenders import (
    BARE_ENDPOINT,
    BATCHED,
    DRAMATIQ,
    FASTSTREAM,
    GATEWAY,
    LIMIT,
    ONE_AT_A_TIME,
    OURS,
    Contender,
)
from benchmarks.results import AT_100, SCRAPED, STUCK, TIMES_DRAMATIQ, UNWATCHED, Latency, Results
from benchmarks.stats import Spread, ratios

_ROUND: Final = attrgetter("round")
Measure = Callable[[Results], Spread | None]


@dataclass(frozen=True)
class Goal:
    """One figure, the least that is asked of it, and what it aims at."""

    title: str
    unit: str
    at_least: bool
    """Whether more is better."""
    must: float | Fraction
    aim: float | Fraction
    measure: Measure
    """The figure over the rounds; None if it was not measured."""

    def verdict(self, figure: Spread | None) -> str:
        """In a word or two, of the median."""
        if figure is None:
            return "not measured"
        if self._reaches(figure.median, self.aim):
            return "aim reached"
        return "reached" if self._reaches(figure.median, self.must) else "**missed**"

    def _reaches(self, figure: float, wanted: float | Fraction) -> bool:
        return figure >= wanted if self.at_least else figure <= wanted


def _drained(field: str, contender: Contender) -> Measure:
    """Our *field* against that of *contender*, over the same backlog."""

    def measure(results: Results) -> Spread | None:
        ours = [each for each in results.contenders if each.contender == OURS.name]
        theirs = [each for each in results.contenders if each.contender == contender.name]
        return ratios(ours, theirs, attrgetter(field), _ROUND)

    return measure


def _workload(name: str) -> Measure:
    """Our rate over the workload *name* against that over distinct commands for one scope."""

    def measure(results: Results) -> Spread | None:
        these = [each for each in results.workloads if each.workload == name]
        distinct = [each for each in results.workloads if each.workload == "distinct"]
        return ratios(these, distinct, attrgetter("per_s"), _ROUND)

    return measure


def _latencies(results: Results, contender: Contender, load: str) -> list[Latency]:
    return [each for each in results.latencies if each.contender == contender.name and each.load == load]


def _latency_at_100(field: str) -> Measure:
    def measure(results: Results) -> Spread | None:
        ours = _latencies(results, OURS, AT_100)
        return ratios(ours, _latencies(results, ONE_AT_A_TIME, AT_100), attrgetter(field), _ROUND)

    return measure


def _latency_under_load(results: Results) -> Spread | None:
    return Spread.of(each.p99_ms for each in _latencies(results, OURS, TIMES_DRAMATIQ))


def _growth(results: Results) -> Spread | None:
    """What the worker holds more after a drain, the longest there is, than after the first tenth of it."""
    drains = sorted(results.scale, key=lambda each: each.messages)[-1:]
    return Spread.of(each.peak_mb - each.early_mb for each in drains if each.peak_mb and each.early_mb)


def _stuck(results: Results) -> Spread | None:
    return Spread.of(each.peak_mb for each in results.memory if each.situation == STUCK)


def _gap(results: Results) -> Spread | None:
    def of(contender: Contender) -> list[Any]:
        return [each for each in results.gaps if each.contender == contender.name]

    return ratios(of(OURS), of(ONE_AT_A_TIME), attrgetter("seconds"), _ROUND)


def _watched(results: Results) -> Spread | None:
    scraped = [each for each in results.telemetry if each.told == SCRAPED]
    unwatched = [each for each in results.telemetry if each.told == UNWATCHED]
    return ratios(unwatched, scraped, attrgetter("per_s"), _ROUND)


def _window(results: Results) -> Spread | None:
    one = [each for each in results.publishing if each.window == 1]
    many = [each for each in results.publishing if each.window != 1]
    return ratios(many, one, attrgetter("per_s"), _ROUND)


def _serving(results: Results) -> Spread | None:
    def of(contender: Contender) -> list[Any]:
        return [each for each in results.serving if each.contender == contender.name]

    return ratios(of(GATEWAY), of(BARE_ENDPOINT), attrgetter("per_s"), _ROUND)


GOALS: Final = (
    Goal("distinct commands, against the broker's limit", "x", True, 0.28, 0.45, _drained("per_s", LIMIT)),
    Goal("… against FastStream", "x", True, 35, 70, _drained("per_s", FASTSTREAM)),
    Goal("… against Dramatiq", "x", True, 16, 28, _drained("per_s", DRAMATIQ)),
    Goal("… against aio-pika in batches", "x", True, 4, 7, _drained("per_s", BATCHED)),
    Goal("99 % duplicates, against distinct commands", "x", True, 1.05, 1.15, _workload("duplicates-99")),
    Goal("50 scopes mixed, against one scope", "x", True, 0.65, 0.8, _workload("scopes-50")),
    Goal(
        "worker CPU per command, against one at a time",
        "x",
        False,
        Fraction(1, 30),
        Fraction(1, 60),
        _drained("worker_cpu", ONE_AT_A_TIME),
    ),
    Goal(
        "broker CPU, the same",
        "x",
        False,
        Fraction(1, 10),
        Fraction(1, 20),
        _drained("broker_cpu", ONE_AT_A_TIME),
    ),
    Goal("latency at 100/s, p50, against one at a time", "x", False, 0.9, 0.75, _latency_at_100("p50_ms")),
    Goal("… p99", "x", False, 1.0, 0.8, _latency_at_100("p99_ms")),
    Goal("latency at three times Dramatiq's rate, p99", "ms", False, 50, 25, _latency_under_load),
    Goal(
        "throughput without metrics, against scraped every second",
        "x",
        False,
        1.05,
        1.02,
        _watched,
    ),
    Goal("memory growth over a drain of a million", "MB", False, 5, 1, _growth),
    Goal("peak memory while the database is stuck", "MB", False, 64, 48, _stuck),
    Goal("1 % poison, against clean commands", "x", True, 0.7, 0.85, _workload("poison")),
    Goal("gap after a cut connection, against aio-pika's robust one", "x", False, 0.2, 0.05, _gap),
    Goal("publishing with a window, against one by one", "x", True, 5, 6.5, _window),
    Goal("requests by the gateway, against a bare endpoint", "x", True, 0.7, 0.85, _serving),
)
