"""
Metrics as Prometheus takes them: a registry of its own for each part of the program, and its exposition.

Nothing is counted here. What a part has done stands in its own totals, and is read when somebody asks; so a batch costs
what it takes to add a few numbers, and nothing is global. A part that counts with prometheus_client's own counters makes
them in :attr:`Metrics.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from configcache_worker.core.totals import Histogram
from configcache_worker.observe.build import version
from configcache_worker.observe.health import Exposition

__all__ = ["PREFIX", "Metric", "Metrics", "counter", "gauge", "histogram"]

PREFIX = "configcache_"

_Family = TypeVar("_Family", CounterMetricFamily, GaugeMetricFamily)


class Metrics:
    """
    What one part of the program tells, beside its build and its process.

    Args:
        read: Gives the part's metrics, each time they are asked for. It must not wait.
    """

    def __init__(self, read: Callable[[], Iterable[Metric]] = tuple) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = gauge("build_info", "The version that runs: 1.", {version() or "unknown": 1}, label="version")
        self.registry.register(_Reading(lambda: [build]))
        self.registry.register(_Reading(read))

    async def expose(self, accept: str) -> Exposition:
        """All of it, in the format that *accept*, a request's header, asks for; the usual text without one."""
        encode, content_type = choose_encoder(accept)
        return Exposition(content_type, encode(self.registry))


class _Reading(Collector):
    """Asks a function for metrics when it is asked."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def counter(
    name: str, meaning: str, values: Mapping[str, float] | float, *, label: str | None = None
) -> CounterMetricFamily:
    """A counter, without the prefix of all names and without ``_total``; with *label*, one for each of *values*."""
    return _filled(CounterMetricFamily(PREFIX + name, meaning, labels=[label] if label else None), values)


def gauge(
    name: str, meaning: str, values: Mapping[str, float] | float, *, label: str | None = None
) -> GaugeMetricFamily:
    """A gauge, without the prefix of all names; with *label*, one for each of *values*."""
    return _filled(GaugeMetricFamily(PREFIX + name, meaning, labels=[label] if label else None), values)


def histogram(name: str, meaning: str, figures: Histogram) -> HistogramMetricFamily:
    """A histogram, without the prefix of all names."""
    buckets = [
        (str(float(bound)) if math.isfinite(bound) else "+Inf", count) for bound, count in figures.buckets()
    ]
    return HistogramMetricFamily(PREFIX + name, meaning, buckets=buckets, sum_value=figures.sum)


def _filled(family: _Family, values: Mapping[str, float] | float) -> _Family:
    if isinstance(values, Mapping):
        for value, figure in values.items():
            family.add_metric([value], figure)
    else:
        family.add_metric([], values)
    return family
