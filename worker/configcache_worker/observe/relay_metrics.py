"""What a relay tells: what it has done, and what waits in the outbox, as metrics. docs/operations.md explains each."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from configcache_worker.core.totals import PauseCause, Pauses
from configcache_worker.observe.metrics import counter, gauge
from configcache_worker.observe.worker_metrics import pause_metrics

_CAUSES = (PauseCause.DATABASE, PauseCause.BROKER)


def relay_metrics(
    *,
    published: int,
    commands: int,
    retries: int,
    pauses: Pauses,
    moment: float,
    backlog_rows: int | None,
    lag_s: float | None,
) -> Iterator[Metric]:
    """
    Every metric of a relay but those of its process.

    Args:
        published: Rows published and deleted.
        commands: Messages that took; equal rows of a transaction share one.
        retries: How often something failed and was, or will be, tried again.
        pauses: What holds up the relay.
        moment: Now, on the clock of *pauses*.
        backlog_rows: What waits in the outbox. None where nobody knows: then there is no such figure, rather than an old one.
        lag_s: How long the oldest row has waited; the same.
    """
    if backlog_rows is not None:
        yield gauge(
            "relay_backlog_rows", "Rows that wait in the outbox, committed; 100,000 for more.", backlog_rows
        )
    if lag_s is not None:
        yield gauge(
            "relay_lag_seconds", "How long the oldest row in the outbox has waited; 0 if none waits.", lag_s
        )
    yield counter("relay_published", "Rows published, confirmed and deleted.", published)
    yield counter("relay_commands", "Commands published for them: equal rows share one.", commands)
    yield counter(
        "relay_retries", "What failed and is tried again: publishes, transactions, connections.", retries
    )
    yield from pause_metrics(pauses, _CAUSES, moment)
