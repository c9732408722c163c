"""
Composition: the only place that knows concrete classes. Builds a worker, a relay or a gateway from settings; runs the
worker, and stops it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

import structlog

from configcache.connection import Supervisor
from configcache.publisher import Publisher
from configcache.retry import RetryPolicy
from configcache_worker.core.bounds import Limits
from configcache_worker.core.pipeline import Pipeline
from configcache_worker.core.ports import TableFault
from configcache_worker.core.totals import PauseCause, RetryCause
from configcache_worker.core.waiting import now
from configcache_worker.observe.gateway_metrics import Answers, gateway_metrics
from configcache_worker.observe.health import HealthServer, Readiness, StartRefused
from configcache_worker.observe.metrics import Metrics
from configcache_worker.observe.worker_metrics import FIRST_SESSION, Standing, worker_metrics
from configcache_worker.postgres.backlog import OutboxBacklog
from configcache_worker.postgres.cache_table import PostgresCacheTable
from configcache_worker.postgres.catalog import LayoutError
from configcache_worker.postgres.connection import TimeLimits
from configcache_worker.postgres.outbox import PostgresOutbox
from configcache_worker.postgres.statements import TableLayout
from configcache_worker.rabbitmq.dead_letters import RabbitDeadLetters
from configcache_worker.rabbitmq.declare import TopologyMismatch, declare
from configcache_worker.rabbitmq.deliveries import END_CAUSES, Deliveries, DeliverySession, end_cause
from configcache_worker.rabbitmq.news import RabbitAnnouncer
from configcache_worker.rabbitmq.reading import age_s, trace_headers
from configcache_worker.relay import Relay
from configcache_worker.settings import CacheSettings, Settings

if TYPE_CHECKING:
    from configcache_worker.gateway.authentication import Authenticator
    from configcache_worker.gateway.gateway import Gateway
    from configcache_worker.observe.traces import Traces

__all__ = ["StartRefused", "Worker", "build_gateway", "build_relay", "build_worker", "table_layout"]

log = structlog.stdlib.get_logger()

_GATEWAY_PORT = 9465
_RELAY_PORT = 9466


class Worker:
    """
    Consumes commands and clears rows until told to stop. Built by :func:`build_worker`.

    Broker, database and table need not be there at the start: the worker waits for them with back-off.
    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        table: PostgresCacheTable,
        deliveries: Deliveries,
        dead_letters: RabbitDeadLetters,
        announcer: RabbitAnnouncer | None = None,
        policy: RetryPolicy,
        drain_timeout_s: float,
        health_address: tuple[str, int] | None,
    ) -> None:
        self.pipeline = pipeline
        self.sessions = Supervisor[DeliverySession](
            name="consumer", open=self._open_session, policy=policy, on_failure=self._tell_failure
        )
        self._table = table
        self._deliveries = deliveries
        self._dead_letters = dead_letters
        self._announcer = announcer
        self._drain_timeout_s = drain_timeout_s
        self.metrics = Metrics(
            lambda: worker_metrics(pipeline.totals, self._standing(), end_causes=END_CAUSES)
        )
        """What it tells of itself."""
        self._health = health_address and HealthServer(
            *health_address, readiness=self.readiness, metrics=self.metrics.expose
        )
        self._stopping = asyncio.Event()
        self._refusal: StartRefused | None = None
        self._last_failure: str | None = None
        self._next_cause: str | None = FIRST_SESSION
        """What makes the next session necessary; None while there is one."""
        self._last_reasons: set[str] = set()

    def __repr__(self) -> str:
        return f"<Worker {self.pipeline!r} {self.sessions!r}>"

    async def run(self) -> None:
        """
        Work until :meth:`stop`, then drain.

        Raises:
            StartRefused: Topology or table are not as they must be, or the probes can't be served.
            Exception: A part of the worker died. Nothing is lost: what is not settled stays the broker's.
        """
        if self._health:
            await self._health.start()
        self.pipeline.totals.pauses.note(PauseCause.BROKER, True, now())
        pipeline = asyncio.create_task(self.pipeline.run(), name="pipeline")
        parts = [pipeline, asyncio.create_task(self.sessions.run(), name="sessions")]
        if self._announcer is not None:
            parts.append(asyncio.create_task(self._announcer.run(), name="news"))
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        log.info("worker.started")
        try:
            await asyncio.wait({*parts, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self._refusal is not None:
                raise self._refusal
            for task in parts:
                if task.done():
                    task.result()
            await self._drain(pipeline)
            given_back = self.pipeline.in_flight
        finally:
            await self._close(*parts, stopping)
        totals = self.pipeline.totals
        log.info(
            "worker.stopped",
            commands=totals.cleared,
            rows=totals.rows,
            dead_lettered=totals.dead_lettered,
            given_back=given_back,
        )

    def stop(self) -> None:
        """Ask :meth:`run` to drain and return. Safe to repeat."""
        self._stopping.set()

    async def readiness(self) -> Readiness:
        """Whether commands are cleared as they come, and if not, why: consuming, not paused, table writable."""
        reasons = self.pipeline.troubles()
        if self._stopping.is_set():
            reasons["worker"] = "draining"
        elif self.sessions.current is None:
            reasons["broker"] = f"not consuming: {self._last_failure or 'no session yet'}"
        if "database" not in reasons and not self.pipeline.is_clearing:
            # While commands are being cleared, their statement is the probe, and the connection is in use.
            try:
                await self._table.probe()
            except TableFault as fault:
                reasons["database"] = str(fault)
        if set(reasons) != self._last_reasons:
            self._last_reasons = set(reasons)
            log.info("readiness.changed", ready=not reasons, reasons=reasons)
        return Readiness(ready=not reasons, reasons=reasons)

    async def _open_session(self) -> DeliverySession:
        try:
            await self.pipeline.ready_to_consume()
            await self._table.check_layout()
            session = await self._deliveries.open()
        except (TopologyMismatch, LayoutError) as error:
            self._refusal = StartRefused(str(error))
            self._stopping.set()
            await asyncio.Event().wait()  # no next attempt: run() is about to end this one
            raise
        totals = self.pipeline.totals
        totals.sessions[self._next_cause or FIRST_SESSION] += 1
        totals.pauses.note(PauseCause.BROKER, False, now())
        self._next_cause = None
        log.info("session.started", consequence="commands are consumed")
        return session

    def _tell_failure(self, attempt: int, delay_s: float, cause: BaseException) -> None:
        self._last_failure = str(cause) or type(cause).__name__
        if self._next_cause is None:
            self._next_cause = end_cause(self._last_failure)
        self.pipeline.totals.retries[RetryCause.BROKER] += 1
        self.pipeline.totals.pauses.note(PauseCause.BROKER, True, now())
        log.warning(
            "session.failed",
            attempt=attempt,
            retry_in_s=round(delay_s, 3),
            error=self._last_failure,
            consequence="nothing is consumed until the next session",
        )

    def _standing(self) -> Standing:
        pipeline = self.pipeline
        return Standing(
            moment=now(),
            is_consuming=self.sessions.current is not None and not self._stopping.is_set(),
            in_flight=pipeline.in_flight,
            set_aside=pipeline.set_aside,
            unburied=pipeline.unburied,
            held_bytes=pipeline.held_bytes,
        )

    async def _drain(self, pipeline: asyncio.Task[None]) -> None:
        log.info("worker.draining", in_flight=self.pipeline.in_flight, deadline_s=self._drain_timeout_s)
        session = self.sessions.current
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                if session is not None:
                    # What the broker sends until it confirms the cancellation still counts as received.
                    await session.cancel_consumer()
                self.pipeline.drain()
                await pipeline
        except TimeoutError:
            log.warning(
                "worker.drain_timed_out",
                in_flight=self.pipeline.in_flight,
                consequence="the broker hands these commands out again",
            )
        if session is not None and not session.has_ended:
            # Without an answer from the broker behind them the last acknowledgements would be lost.
            await session.flush()
        if self._announcer is not None:
            await self._announcer.flush()

    async def _close(self, *tasks: asyncio.Task[object]) -> None:
        # From the last line to the first: the source, then what works on it, the probes that ask it, and at the end what
        # all of them need. Each of them also where one before has failed or was cancelled.
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._table.close)
            stack.push_async_callback(self._dead_letters.stop)
            if self._announcer is not None:
                stack.push_async_callback(self._announcer.stop)
            if self._health:
                stack.push_async_callback(self._health.stop)
            stack.push_async_callback(_cancel, *tasks)
            stack.push_async_callback(self.sessions.stop)


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def build_worker(settings: Settings, *, traces: Traces | None = None) -> Worker:
    """
    Put a worker together. Connects to nothing yet.

    Args:
        settings: The sections ``broker``, ``database``, ``cache``, ``worker`` and ``telemetry``.
        traces: Where its spans go. It is the caller's to stop.
    """
    broker, database, limits, telemetry = (
        settings.broker,
        settings.database,
        settings.worker,
        settings.telemetry,
    )
    policy = RetryPolicy(first_s=limits.first_retry_s, longest_s=limits.longest_retry_s)
    table = PostgresCacheTable(
        database.url,
        layout=table_layout(settings.cache),
        limits=TimeLimits.of(database),
        cache_statements=database.statement_cache,
    )
    prepare = partial(declare, may_declare=broker.declare)
    dead_letters = RabbitDeadLetters(
        url=broker.url,
        prepare=prepare,
        policy=policy,
        connect_timeout_s=broker.connect_timeout_s,
        heartbeat_s=broker.heartbeat_s,
    )
    announcer = None
    if limits.publish_events:
        announcer = RabbitAnnouncer(
            url=broker.url,
            prepare=prepare,
            policy=policy,
            connect_timeout_s=broker.connect_timeout_s,
            heartbeat_s=broker.heartbeat_s,
        )
    pipeline = Pipeline(
        table=traces.table(table, url=database.url, name=settings.cache.table) if traces else table,
        dead_letters=dead_letters,
        policy=policy,
        limits=Limits(
            prefetch=limits.prefetch,
            batch=limits.batch,
            chunk_rows=limits.chunk_rows,
            max_held_bytes=limits.max_held_bytes,
        ),
        announcer=announcer,
        age_s=age_s if telemetry.port else None,
        tracer=traces.batches(trace_headers) if traces else None,
    )
    deliveries = Deliveries(
        url=broker.url,
        prefetch=limits.prefetch,
        connect_timeout_s=broker.connect_timeout_s,
        heartbeat_s=broker.heartbeat_s,
        prepare=prepare,
        receive=pipeline.receive,
    )
    return Worker(
        pipeline=pipeline,
        table=table,
        deliveries=deliveries,
        dead_letters=dead_letters,
        announcer=announcer,
        policy=policy,
        drain_timeout_s=limits.drain_timeout_s,
        health_address=(telemetry.host, telemetry.port) if telemetry.port else None,
    )


def build_relay(settings: Settings, *, traces: Traces | None = None) -> Relay:
    """
    Put a relay together. Connects to nothing yet.

    Args:
        settings: The sections ``broker``, ``database``, ``cache`` (for its schema), ``relay`` and ``telemetry``.
        traces: Where its spans go. It is the caller's to stop.
    """
    broker, relay, telemetry = settings.broker, settings.relay, settings.telemetry
    policy = RetryPolicy(longest_s=relay.longest_retry_s)
    port = telemetry.port_or(_RELAY_PORT)
    return Relay(
        outbox=PostgresOutbox(
            settings.database.url,
            schema=settings.cache.schema_,
            limits=TimeLimits.of(settings.database),
            hold_s=relay.publish_timeout_s,
        ),
        backlog=OutboxBacklog(settings.database.url, schema=settings.cache.schema_),
        publisher=Publisher(
            url=broker.url,
            app_id="configcache relay",
            timeout_s=relay.publish_timeout_s,
            max_in_flight=relay.batch,
            reconnect=policy,
            tracer=traces.sends() if traces else None,
        ),
        policy=policy,
        batch=relay.batch,
        publish_timeout_s=relay.publish_timeout_s,
        poll_interval_s=relay.poll_interval_s,
        health_address=(telemetry.host, port) if port else None,
    )


def build_gateway(
    settings: Settings, authenticator: Authenticator | None = None, *, traces: Traces | None = None
) -> Gateway:
    """
    Put a gateway together. Connects to nothing yet.

    Args:
        settings: The sections ``broker``, ``gateway`` and ``telemetry``; and, where callers are looked up, ``database``,
            and ``cache`` for its schema.
        authenticator: Tells who calls, in the place of what the settings say.
        traces: Where its spans go. It is the caller's to stop.
    """
    # Here, so that whoever runs a worker needs none of what serves HTTP.
    from configcache_worker.gateway import openapi
    from configcache_worker.gateway.asgi import GatewayApplication
    from configcache_worker.gateway.composition import accepted, build_callers
    from configcache_worker.gateway.endpoint import ClearConfigurationCacheCall
    from configcache_worker.gateway.gateway import Gateway, no_troubles
    from configcache_worker.gateway.security import security
    from configcache_worker.gateway.server import GatewayServer

    gateway, telemetry = settings.gateway, settings.telemetry
    publisher = Publisher(
        url=settings.broker.url,
        app_id="configcache gateway",
        timeout_s=gateway.publish_timeout_s,
        max_in_flight=gateway.max_concurrency,
        tracer=traces.sends() if traces else None,
    )
    callers = None
    if authenticator is None:
        authenticator = callers = build_callers(settings)
    answers = Answers()
    offered = security(accepted(gateway))
    application = GatewayApplication(
        call=ClearConfigurationCacheCall(authenticator=authenticator, publisher=publisher),
        openapi=openapi.document(
            root_path=gateway.root_path, security_schemes=offered.schemes, security=offered.requirements
        ),
        answered=answers,
        root_path=gateway.root_path,
        max_concurrency=gateway.max_concurrency,
        max_body_bytes=gateway.max_body_bytes,
        receive_timeout_s=gateway.receive_timeout_s,
    )
    port = telemetry.port_or(_GATEWAY_PORT)
    return Gateway(
        server=GatewayServer(application, gateway),
        application=application,
        publisher=publisher,
        callers=callers,
        troubles=callers.troubles if callers else no_troubles,
        metrics=Metrics(
            lambda: gateway_metrics(
                answers, in_progress=application.in_progress, is_connected=publisher.is_connected
            )
        ),
        health_address=(telemetry.host, port) if port else None,
    )


def table_layout(cache: CacheSettings) -> TableLayout:
    """Where the settings say the cached rows are."""
    return TableLayout(
        schema=cache.schema_,
        table=cache.table,
        application=cache.columns.application,
        instance=cache.columns.instance,
        associate=cache.columns.associate,
        item=cache.columns.item or None,
    )
