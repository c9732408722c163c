"""
Spans of what worker and relay do, by OpenTelemetry. Imported only where they are wanted: needs the extra [telemetry].

A batch is one span, *process*, linked to what its messages say about their own traces; each statement in it is another. The
conventions are OpenTelemetry's for messaging (RabbitMQ) and databases (PostgreSQL). Nothing is global: a provider of our own
makes the spans, and OpenTelemetry's own variables say where they go.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer, TraceState

from configcache.spans import MESSAGING, W3C, SendSpans
from configcache.topology import COMMAND_QUEUE
from configcache_worker.core.ports import CacheTable, Chunk, Delivery, Position, Scope, TableFault
from configcache_worker.observe.build import version

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

MOST_LINKS: Final = 128
"""Of a batch. As many as a span keeps by default; and no more messages are looked at."""

_STOP_S: Final = 5.0


class Traces:
    """
    Where the spans of one process go.

    Args:
        service: What to call the process, where ``OTEL_SERVICE_NAME`` does not.
        exporter: Takes the spans; by default OTLP over HTTP.

    Raises:
        ValueError: A variable of OpenTelemetry is wrong.
    """

    def __init__(self, *, service: str, exporter: SpanExporter | None = None) -> None:
        ours = Resource.create({"service.name": service, "service.version": version() or "unknown"})
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("configcache_worker", version())

    def sends(self) -> SendSpans:
        """For a publisher."""
        return SendSpans(self._provider)

    def batches(self, context_of: Callable[[Delivery], Mapping[str, str]]) -> BatchSpans:
        """For a pipeline; *context_of* reads the well-formed trace context that came with a message."""
        return BatchSpans(self._tracer, context_of)

    def table(self, table: CacheTable, *, url: str, name: str) -> TracedTable:
        """*table*, called *name* in the database of *url*, with a span for each statement that clears."""
        return TracedTable(table, self._tracer, _database(url, name))

    def flush(self) -> None:
        """Send what is finished, and wait for it."""
        self._provider.force_flush()

    def stop(self) -> None:
        """Send what is finished, and wait no longer than five seconds for it: nobody should have to wait for a collector."""
        stopping = threading.Thread(target=self._provider.shutdown, name="stop traces", daemon=True)
        stopping.start()
        stopping.join(_STOP_S)

    @staticmethod
    def log_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Say in a log line to which span it belongs, if there is one."""
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = trace.format_trace_id(context.trace_id)
            event["span_id"] = trace.format_span_id(context.span_id)
        return event


class BatchSpans:
    """A span for each batch: the core's port :class:`~configcache_worker.core.ports.BatchTracer`."""

    def __init__(self, tracer: Tracer, context_of: Callable[[Delivery], Mapping[str, str]]) -> None:
        self._tracer = tracer
        self._context_of = context_of

    @contextlib.contextmanager
    def processing(self, deliveries: Iterable[Delivery], *, count: int) -> Iterator[None]:
        """Follow one batch; see the port. A batch of a single message is also part of that message's trace."""
        some = [(delivery.tag, self._context_of(delivery)) for delivery in islice(deliveries, MOST_LINKS)]
        with self._tracer.start_as_current_span(
            f"process {COMMAND_QUEUE}",
            context=W3C.extract(some[0][1]) if count == 1 else None,
            kind=SpanKind.CONSUMER,
            links=[_link(tag, context) for tag, context in some if context],
            attributes={
                **MESSAGING,
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.batch.message_count": count,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise


class TracedTable:
    """A table with a span for each statement that clears: the port :class:`~configcache_worker.core.ports.CacheTable`."""

    def __init__(self, table: CacheTable, tracer: Tracer, attributes: Mapping[str, str | int]) -> None:
        self._table = table
        self._tracer = tracer
        self._attributes = attributes
        self._name = str(attributes["db.query.summary"])

    async def clear(self, scopes: Sequence[Scope], *, after: Position | None, limit: int) -> Chunk:
        """Delete the next chunk of *scopes*; see the port."""
        with self._tracer.start_as_current_span(
            self._name,
            kind=SpanKind.CLIENT,
            attributes={**self._attributes, "configcache.scopes": len(scopes)},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                chunk = await self._table.clear(scopes, after=after, limit=limit)
            except TableFault as fault:
                if fault.sqlstate is not None:
                    span.set_attribute("db.response.status_code", fault.sqlstate)
                span.set_attribute(
                    "error.type", fault.sqlstate or ("timeout" if fault.timed_out else "_OTHER")
                )
                span.set_status(StatusCode.ERROR, str(fault))
                raise
            span.set_attribute("configcache.rows", chunk.rows)
            return chunk

    async def probe(self) -> None:
        """Commit a DELETE of no rows; see the port. It has no span: it is asked again and again."""
        await self._table.probe()


def _link(tag: int, context: Mapping[str, str]) -> Link:
    # By hand, in a fifth of the time that the propagator takes: a batch may have many, and what comes here is well-formed.
    _, trace_id, span_id, flags, *_ = context["traceparent"].split("-")
    state = context.get("tracestate")
    span = SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )
    return Link(span, {"messaging.rabbitmq.message.delivery_tag": tag})


def _database(url: str, table: str) -> dict[str, str | int]:
    """What all spans of a table say. *url* is valid; of several hosts nobody knows which one it is."""
    found: dict[str, str | int] = {
        "db.system.name": "postgresql",
        "db.operation.name": "DELETE",
        "db.collection.name": table,
        "db.query.summary": f"DELETE {table}",
    }
    parts = urlsplit(url)
    if namespace := parts.path.strip("/"):
        found["db.namespace"] = namespace
    if "," not in parts.netloc and parts.hostname:
        found["server.address"] = parts.hostname
        found["server.port"] = parts.port or 5432
    return found
