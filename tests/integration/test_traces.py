"""One trace from the producer to the deleted rows, on real servers."""

from __future__ import annotations

import asyncpg
import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from configcache import Publisher, Refused, outbox
from configcache_worker.observe.traces import Traces
from tests.commands import declare, published
from tests.integration.test_relay import emptied, one, relaying
from tests.integration.test_sessions import clear, row
from tests.locks import locked_row, someone_waits_for_a_lock
from tests.waiting import eventually

SEND, PROCESS = "send clear-configuration-cache.v1", "process clear-configuration-cache.v1"
DELETE = "DELETE configuration_cache"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Tracing(Traces):
    """Keeps spans in memory."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        super().__init__(service="tests", exporter=self._exporter)

    def spans(self, name):
        self.flush()
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def tracing():
    tracing = Tracing()
    yield tracing
    tracing.stop()


async def test_a_command_is_one_trace_from_its_producer_to_its_rows(new_system, tracing):
    async with new_system(traces=tracing) as system:
        await system.fill([row(1)])
        with structlog.testing.capture_logs(processors=[Traces.log_fields]) as logged:
            await system.publish(clear(1))
            await system.settled()

    (send,), (process,), (delete,) = (tracing.spans(name) for name in (SEND, PROCESS, DELETE))
    assert (send.kind, process.kind, delete.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT)
    assert process.parent.span_id == send.context.span_id
    assert [link.context.span_id for link in process.links] == [send.context.span_id]
    assert delete.parent.span_id == process.context.span_id
    assert process.attributes == {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "configuration:clear-configuration-cache.v1",
        "messaging.rabbitmq.destination.routing_key": "clear-configuration-cache.v1",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.batch.message_count": 1,
    }
    assert send.attributes["messaging.operation.type"] == "send"
    assert delete.attributes["db.system.name"] == "postgresql"
    assert delete.attributes["configcache.rows"] == 1
    assert f"/{delete.attributes['db.namespace']}" in system.settings.database.url
    (cleared,) = [line for line in logged if line["event"] == "batch.cleared"]
    assert cleared["trace_id"] == f"{send.context.trace_id:032x}"
    assert cleared["span_id"] == f"{process.context.span_id:016x}"


async def test_a_batch_is_linked_to_the_traces_of_its_messages(new_system, tracing):
    async with new_system(traces=tracing) as system:
        await system.fill([row(1), row(2)])
        async with locked_row(system, 1):
            await system.publish(clear(1))
            await someone_waits_for_a_lock(system)
            await system.publish(clear(2), clear(2))
            await system.publisher.publish(clear(3), traceparent=PARENT)
            await system.publish_raw(b'{"Application":"WebClient","Instance":"Web","AssociateId":4}')
            await eventually(lambda: system.worker.pipeline.in_flight == 5)
        await system.settled()

    batch = tracing.spans(PROCESS)[-1]
    assert batch.attributes["messaging.batch.message_count"] == 4
    assert batch.parent is None
    sends = {span.context.span_id for span in tracing.spans(SEND)[1:]}
    assert {link.context.span_id for link in batch.links} == sends
    assert PARENT[3:35] in {f"{link.context.trace_id:032x}" for link in batch.links}


async def test_a_batch_that_is_tried_again_is_one_span_with_a_statement_for_each_try(new_system, tracing):
    async with new_system(traces=tracing) as system:
        await system.fill([row(1)])
        await system.execute("ALTER TABLE configuration_cache RENAME TO away")
        await system.publish(clear(1))
        await eventually(lambda: "database" in system.worker.pipeline.troubles())
        await system.execute("ALTER TABLE away RENAME TO configuration_cache")
        await system.settled()

    (batch,) = tracing.spans(PROCESS)
    *failed, last = tracing.spans(DELETE)
    assert {span.parent.span_id for span in (*failed, last)} == {batch.context.span_id}
    assert last.attributes["configcache.rows"] == 1
    assert {span.status.status_code for span in failed} == {StatusCode.ERROR}
    assert {span.attributes["db.response.status_code"] for span in failed} == {"42P01"}


async def test_a_publish_that_fails_is_a_span_with_its_error(vhost, tracing):
    async with Publisher(url=vhost, tracer=tracing.sends()) as publisher:
        with pytest.raises(Refused):
            await publisher.publish(clear(1))

    (send,) = tracing.spans(SEND)
    assert send.status.status_code is StatusCode.ERROR
    assert send.attributes["error.type"] == "Refused"


async def test_what_a_relay_publishes_has_a_trace(vhost, outbox_url, tracing):
    await declare(vhost)
    sql = await asyncpg.connect(outbox_url)
    async with relaying(vhost, outbox_url, traces=tracing):
        await outbox.enqueue(sql, one(1))
        await emptied(sql)
    await sql.close()

    (send,) = tracing.spans(SEND)
    (message,) = await published(vhost)
    assert f"{send.context.trace_id:032x}" in message.headers["traceparent"]


async def test_without_tracing_messages_carry_no_trace_of_ours(new_system):
    async with new_system(start_worker=False) as system:
        await system.publish(clear(1))
        (message,) = await published(system.settings.broker.url)

    assert not {"traceparent", "tracestate"} & set(message.headers)
