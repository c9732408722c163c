"""What a gateway tells: what it has answered, as metrics. docs/operations.md explains each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from configcache_worker.core.totals import SECONDS_BOUNDS, Histogram
from configcache_worker.observe.metrics import counter, gauge, histogram


class Answers:
    """What a gateway has answered since it was made. To be told of each request: the status, and the seconds it took."""

    def __init__(self) -> None:
        self.statuses = Counter({204: 0, 503: 0})  # a rate needs a 0 to begin with
        self.seconds = Histogram(SECONDS_BOUNDS)

    def __call__(self, status: int, duration_s: float) -> None:
        """Count one request."""
        self.statuses[status] += 1
        self.seconds.observe(duration_s)


def gateway_metrics(answers: Answers, *, in_progress: int, is_connected: bool) -> Iterator[Metric]:
    """Every metric of a gateway but those of its process."""
    yield counter(
        "gateway_requests",
        "Requests answered, by status; 499 is a client that did not wait.",
        {str(status): count for status, count in sorted(answers.statuses.items())},
        label="status",
    )
    yield histogram("gateway_request_duration_seconds", "From request to answer.", answers.seconds)
    yield gauge("gateway_requests_in_progress", "Calls that are being served.", in_progress)
    yield gauge("gateway_connected", "Whether there is a connection to the broker: 1 or 0.", is_connected)
