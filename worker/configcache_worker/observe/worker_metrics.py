"""What a worker tells: its totals, and how it stands at the moment, as metrics. docs/operations.md explains each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, Metric

from configcache.wire import Reason
from configcache_worker.core.totals import PauseCause, Pauses, RetryCause, Totals
from configcache_worker.observe.metrics import PREFIX, counter, gauge, histogram

FIRST_SESSION = "start"
"""What makes the first session necessary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a worker stands at one moment."""

    moment: float
    """On the clock of the totals' pauses, in seconds."""
    is_consuming: bool
    in_flight: int
    set_aside: int
    unburied: int
    held_bytes: int


def worker_metrics(totals: Totals, now: Standing, *, end_causes: tuple[str, ...]) -> Iterator[Metric]:
    """
    Every metric of a worker but those of its process.

    Args:
        totals: What it has done.
        now: How it stands.
        end_causes: What may end a session.
    """
    yield _commands(totals)
    yield counter("deliveries_received", "Deliveries that the broker has handed over.", totals.received)
    yield counter("rows_cleared", "Rows deleted, committed.", totals.rows)
    yield histogram("batch_commands", "Commands cleared together in one batch.", totals.batch_commands)
    yield histogram("batch_duration_seconds", "What a batch took in the database.", totals.batch_seconds)
    yield counter(
        "commands_coalesced",
        "Of the cleared commands, those that an equal or a wider one has done as well.",
        totals.coalesced,
    )
    yield histogram(
        "invalidation_lag_seconds",
        "From publish to commit, by the clocks of producer and worker. Observed once for each batch, for its oldest"
        " delivery: an upper bound of what its commands have waited.",
        totals.lag_seconds,
    )
    yield from _standing(now)
    yield from pause_metrics(totals.pauses, tuple(PauseCause), now.moment)
    causes = (FIRST_SESSION, *end_causes)
    yield counter(
        "sessions",
        "Sessions begun, by what made one necessary.",
        _all(causes, totals.sessions),
        label="cause",
    )
    yield counter(
        "retries", "What was tried again, by cause.", _all(RetryCause, totals.retries), label="cause"
    )
    yield counter(
        "convictions",
        "Commands that were found at fault, by reason.",
        _all([Reason.REFUSED_BY_DATABASE], totals.convicted),
        label="reason",
    )
    yield counter(
        "dead_letters",
        "Deliveries that are in the dead-letter queue with their reason, or were rejected to it.",
        _all(Reason, totals.buried + totals.rejected),
        label="reason",
    )


def pause_metrics(pauses: Pauses, causes: tuple[PauseCause, ...], moment: float) -> Iterator[Metric]:
    """What pauses, and for how long it has."""
    yield gauge(
        "paused",
        "Whether work is held up, by cause: 1 or 0.",
        {cause: cause in pauses for cause in causes},
        label="cause",
    )
    yield counter(
        "paused_seconds",
        "For how long work was held up, by cause.",
        {cause: pauses.seconds(cause, moment) for cause in causes},
        label="cause",
    )


def _commands(totals: Totals) -> Metric:
    family = CounterMetricFamily(
        PREFIX + "commands",
        "Deliveries answered: cleared, dead_lettered with their reason, or rejected to the dead letters.",
        labels=["outcome", "reason"],
    )
    family.add_metric(["cleared", ""], totals.cleared)
    for reason in Reason:
        family.add_metric(["dead_lettered", reason], totals.buried[reason])
        family.add_metric(["rejected", reason], totals.rejected[reason])
    return family


def _standing(now: Standing) -> Iterator[Metric]:
    yield gauge("consuming", "Whether commands are consumed: 1 or 0.", now.is_consuming)
    yield gauge("commands_in_flight", "Deliveries received and not settled.", now.in_flight)
    yield gauge(
        "commands_set_aside", "Commands that failed alone and wait for trials of their own.", now.set_aside
    )
    yield gauge(
        "letters_waiting", "Deliveries that wait for their dead letter to be confirmed.", now.unburied
    )
    yield gauge("letters_held_bytes", "What these hold of the memory.", now.held_bytes)


def _all(words: Iterable[str], counts: Counter[Any]) -> dict[str, float]:
    """Each of *words*, those that never came up as well: a rate needs a 0 to begin with."""
    return {word: counts[word] for word in words}
