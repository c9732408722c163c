"""Spans without servers: what is carried, and where spans go."""

from __future__ import annotations

import http.server
import threading

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pamqp import commands
from pamqp.header import ContentHeader

from configcache.spans import SendSpans
from configcache_worker.observe import traces
from configcache_worker.observe.traces import Traces
from configcache_worker.rabbitmq.reading import Envelope, read, trace_headers

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    tracing = Traces(service="tests", exporter=exporter)
    yield tracing
    tracing.stop()


def delivered(headers):
    header = ContentHeader(properties=commands.Basic.Properties(headers=headers)).marshal()
    return read(7, Envelope(False, b"configuration", b"x", header), b"{}")


@pytest.mark.parametrize(
    "headers", [{}, {"traceparent": PARENT}, {"traceparent": PARENT, "tracestate": "a=1"}]
)
def test_the_trace_context_of_a_message_is_read(headers):
    assert trace_headers(delivered(headers)) == headers


@pytest.mark.parametrize(
    "headers",
    [{"traceparent": "nonsense"}, {"traceparent": 1}, {"traceparent": PARENT + "é"}, {"tracestate": "a=1"}],
)
def test_what_is_no_trace_context_is_none(headers):
    assert trace_headers(delivered(headers)) == {}


def test_a_message_that_was_not_kept_has_no_trace_context():
    assert trace_headers(delivered({"traceparent": PARENT})._replace(envelope=None)) == {}


def test_where_nobody_has_set_up_spans_the_context_passes_through():
    with SendSpans().sending(PARENT, "a=1") as context:
        assert context == {"traceparent": PARENT, "tracestate": "a=1"}
    with SendSpans().sending(None, None) as context:
        assert context == {}


def test_a_send_continues_the_trace_that_the_caller_names(tracing, exporter):
    with tracing.sends().sending(PARENT, None) as context:
        pass
    tracing.flush()

    (span,) = exporter.get_finished_spans()
    assert f"{span.parent.trace_id:032x}" == PARENT[3:35]
    assert context["traceparent"] == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def test_a_batch_keeps_a_bounded_number_of_links_and_looks_at_no_more_messages(
    tracing, exporter, monkeypatch
):
    monkeypatch.setattr(traces, "MOST_LINKS", 3)
    looked_at = []

    def context_of(delivery):
        looked_at.append(delivery)
        return {"traceparent": PARENT} if len(looked_at) != 2 else {}

    with tracing.batches(context_of).processing(iter([delivered({})] * 5), count=5):
        pass
    tracing.flush()

    (span,) = exporter.get_finished_spans()
    assert span.attributes["messaging.batch.message_count"] == 5
    assert [link.attributes["messaging.rabbitmq.message.delivery_tag"] for link in span.links] == [7, 7]
    assert span.parent is None
    assert len(looked_at) == 3


@pytest.fixture
def collector():
    """A collector of spans: its port, and what it was sent."""
    sent = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port, sent
        server.shutdown()
        thread.join()


def test_spans_go_where_opentelemetrys_own_variables_say_under_the_name_they_give(collector, monkeypatch):
    port, sent = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "night-shift")
    tracing = Traces(service="configcache-worker")

    with tracing.sends().sending(None, None):
        pass
    tracing.stop()

    ((path, body),) = sent
    assert path == "/v1/traces"
    assert b"night-shift" in body
    assert b"send clear-configuration-cache.v1" in body
    assert b"configcache-worker" not in body
