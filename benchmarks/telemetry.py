"""What does it cost to be watched?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from benchmarks.contenders import OURS
from benchmarks.drain import drain
from benchmarks.programs import ContenderFailed
from benchmarks.results import SCRAPED, Telemetry
from benchmarks.workloads import distinct
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.servers import Servers

_SCRAPE_EVERY_S: Final = 1.0
"""Fifteen times as often as is usual."""
_STARTING_S: Final = 0.1


async def telemetry(servers: Servers, *, told: str, count: int, number: int) -> Telemetry:
    """Drain *count* distinct commands with a worker that is scraped all the while, or one that serves nothing."""
    port = free_ports(1)[0] if told == SCRAPED else 0
    async with _scraped(port) if port else contextlib.nullcontext():
        drained = await drain(
            servers,
            distinct(count),
            OURS,
            number=number,
            environment={"CONFIGCACHE_TELEMETRY__PORT": str(port)},
        )
    return Telemetry(number, told, drained.per_s, drained.worker_cpu)


@contextlib.asynccontextmanager
async def _scraped(port: int) -> AsyncIterator[None]:
    """
    Ask for the metrics again and again until the end of the block.

    Raises:
        ContenderFailed: There was no answer at all.
    """
    answers = 0

    async def scrape() -> None:
        nonlocal answers
        while True:
            with contextlib.suppress(OSError):  # before it has started, and after it was stopped
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
                answers += b"configcache_commands_total" in await reader.read()
                writer.close()
            await asyncio.sleep(_SCRAPE_EVERY_S if answers else _STARTING_S)

    scraping = asyncio.create_task(scrape())
    try:
        yield
    finally:
        scraping.cancel()
        await asyncio.gather(scraping, return_exceptions=True)
    if not answers:
        raise ContenderFailed("its metrics could not be had")
