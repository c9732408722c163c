"""
The gateway as a service: publisher, whoever knows the callers, HTTP server and probes, started and stopped in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from configcache_worker.observe.health import HealthServer, Readiness

if TYPE_CHECKING:
    from configcache.publisher import Publisher
    from configcache_worker.gateway.asgi import GatewayApplication
    from configcache_worker.gateway.server import GatewayServer
    from configcache_worker.observe.metrics import Metrics

log = structlog.stdlib.get_logger()

Troubles = Callable[[], Awaitable[Mapping[str, str]]]
"""Why callers can't be told from each other now: the part that is missing and a sentence about it."""


async def no_troubles() -> Mapping[str, str]:
    """Nothing is missing, ever."""
    return {}


class Gateway:
    """
    Serves HTTP until told to stop. Built by ``app.build_gateway``.

    The broker need not be there at the start: until it is, answers are 503.

    Args:
        server: Serves *application*.
        application: Knows what is in progress.
        publisher: What the application publishes with.
        callers: Opened before the first request and closed after the last: what the authenticator needs.
        troubles: Of the authenticator.
        metrics: What it tells of itself, beside the probes.
        health_address: Of the probes; None for none.
    """

    def __init__(
        self,
        *,
        server: GatewayServer,
        application: GatewayApplication,
        publisher: Publisher,
        callers: contextlib.AbstractAsyncContextManager[Any] | None = None,
        troubles: Troubles = no_troubles,
        metrics: Metrics | None = None,
        health_address: tuple[str, int] | None,
    ) -> None:
        self.server = server
        self._application = application
        self._publisher = publisher
        self._callers = callers or contextlib.nullcontext()
        self._troubles = troubles
        self.metrics = metrics
        self._health = health_address and HealthServer(
            *health_address, readiness=self.readiness, metrics=metrics.expose if metrics else None
        )
        self._stopping = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Gateway {self.server!r} {self._publisher!r}>"

    async def run(self) -> None:
        """
        Serve until :meth:`stop`, then finish the requests that have begun.

        Raises:
            StartRefused: An address, a port or the certificate can't be had.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._health:
                await self._health.start()
                stack.push_async_callback(self._health.stop)
            await stack.enter_async_context(self._publisher)
            await stack.enter_async_context(self._callers)
            # On the way out from the last line to the first: no request is left when what they need is closed.
            stack.push_async_callback(self._drain)
            await self.server.start()
            log.info("gateway.started", port=self.server.port)
            await self._stopping.wait()
        log.info("gateway.stopped")

    def stop(self) -> None:
        """Ask :meth:`run` to finish and return. Safe to repeat."""
        self._stopping.set()

    async def readiness(self) -> Readiness:
        """Whether a call would be served, and if not, why: the broker connected, the callers known."""
        reasons = dict(await self._troubles())
        if self._stopping.is_set():
            reasons["gateway"] = "draining"
        if not self._publisher.is_connected:
            reasons["broker"] = "no connection"
        return Readiness(ready=not reasons, reasons=reasons)

    async def _drain(self) -> None:
        log.info("gateway.draining", in_progress=self._application.in_progress)
        self._application.is_stopping = True
        cut_off = await self.server.stop()
        if cut_off:
            log.warning(
                "gateway.drain_timed_out",
                cut_off=cut_off,
                consequence="their clients were told to try again",
            )
