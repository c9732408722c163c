"""What a process tells on /metrics, as Prometheus reads it, and on /readyz."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from configcache_worker.local.ports import LOOPBACK

_TIMEOUT_S: Final = 10.0


class Told:
    """The samples of one scrape: ``told("configcache_paused", cause="database")``."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value; None if there is no such sample."""
        return self._samples.get((name, frozenset(labels.items())))


async def scrape(port: int) -> Told:
    """Ask over HTTP, without holding up this event loop."""
    return await asyncio.to_thread(_scrape, f"http://{LOOPBACK}:{port}/metrics")


async def is_served(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


async def readiness(port: int) -> tuple[int, dict[str, Any]]:
    """Status and reasons of ``/readyz``."""
    return await asyncio.to_thread(_readiness, f"http://{LOOPBACK}:{port}/readyz")


def _readiness(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return answer.status, json.load(answer)["reasons"]
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, json.load(answer)["reasons"]


def _scrape(url: str) -> Told:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        return Told(answer.read().decode())
