"""
Spans of what is published, by OpenTelemetry, as its conventions for messaging have them. Needs ``opentelemetry-api``::

    from configcache.spans import SendSpans

    publisher = Publisher(url=..., tracer=SendSpans())

Nothing else here imports OpenTelemetry. The service decides where spans go; if it has set up nothing, there are none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from configcache.errors import PublishError
from configcache.topology import COMMAND_EXCHANGE, COMMAND_ROUTING_KEY
from configcache.trace import headers

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["MESSAGING", "W3C", "SendSpans"]

MESSAGING: Final[Mapping[str, str]] = {
    "messaging.system": "rabbitmq",
    "messaging.destination.name": f"{COMMAND_EXCHANGE}:{COMMAND_ROUTING_KEY}",
    "messaging.rabbitmq.destination.routing_key": COMMAND_ROUTING_KEY,
}
"""What all spans of the command's way through the broker say (OpenTelemetry, Semantic Conventions for RabbitMQ)."""

W3C: Final = TraceContextTextMapPropagator()
"""The headers are part of the contract, whatever propagator the service uses elsewhere."""


class SendSpans:
    """
    A span for each publish, from the call to the confirm or the error: :class:`~configcache.trace.Tracer`.

    Args:
        provider: Makes the spans; by default the one that the service has set up for all of its own.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("configcache", tracer_provider=provider)

    @contextlib.contextmanager
    def sending(self, traceparent: str | None, tracestate: str | None) -> Iterator[Mapping[str, str]]:
        """Follow one publish; see :class:`~configcache.trace.Tracer`."""
        named = headers(traceparent, tracestate)
        with self._tracer.start_as_current_span(
            f"send {COMMAND_ROUTING_KEY}",
            context=W3C.extract(named) if named else None,
            kind=SpanKind.PRODUCER,
            attributes={
                **MESSAGING,
                "messaging.operation.type": "send",
                "messaging.operation.name": "send",
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            context: dict[str, str] = {}
            W3C.inject(context)
            try:
                yield context or named
            except PublishError as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR, str(error))
                raise
