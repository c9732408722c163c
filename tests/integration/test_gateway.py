"""The gateway before a real broker: 204 for what is in the queue, for that alone, and 503 in time for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import httpx
import pytest

from configcache import ClearConfigurationCache, wire
from configcache.topology import COMMAND_QUEUE
from configcache_worker.app import build_gateway
from configcache_worker.gateway.asgi import CALL_PATH
from configcache_worker.local.ports import LOOPBACK
from configcache_worker.settings import (
    BrokerSettings,
    DatabaseSettings,
    GatewaySettings,
    Settings,
    TelemetrySettings,
)
from tests.chaos.load import delete_queue
from tests.commands import arrived, declare, published
from tests.gateways import BODIES, JSON, Calls
from tests.metrics import Told
from tests.proxy import Proxy
from tests.waiting import eventually

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TIMEOUT_S = 0.3


@pytest.fixture
async def broker(vhost):
    """A virtual host with the topology on it."""
    await declare(vhost)
    return vhost


class Front:
    """A gateway that runs, and a client of it."""

    def __init__(self, gateway, http):
        self.gateway = gateway
        self._http = http

    async def call(self, body=BODIES[JSON], content_type=JSON, **headers):
        return await self._http.post(
            CALL_PATH, content=body, headers={"content-type": content_type, **headers}
        )

    async def own(self, number):
        """The status of the call for the caller's own rows of the instance *number*."""
        body = json.dumps({"Application": "WebClient", "Instance": str(number)}).encode()
        try:
            return (await self.call(body)).status_code
        except httpx.TransportError:
            return None

    async def ready(self):
        async def is_ready():
            return (await self.gateway.readiness()).ready

        await eventually(is_ready)


@contextlib.asynccontextmanager
async def serving(broker, **settings):
    """A gateway that takes everybody for an administrator."""
    gateway = build_gateway(
        Settings(
            broker=BrokerSettings(url=broker),
            database=DatabaseSettings(url="postgresql://nobody@127.0.0.1:1/"),
            gateway=GatewaySettings(**{"port": 0, "publish_timeout_s": TIMEOUT_S, **settings}),
            telemetry=TelemetrySettings(port=0),
        ),
        Calls(),
    )
    running = asyncio.create_task(gateway.run())
    try:
        await eventually(lambda: gateway.server.port)
        async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{gateway.server.port}", timeout=20) as http:
            yield Front(gateway, http)
    finally:
        gateway.stop()
        await running


async def test_the_sample_of_every_content_type_is_in_the_queue_when_204_is_answered(broker):
    async with serving(broker) as front:
        answers = [await front.call(body, name, traceparent=TRACEPARENT) for name, body in BODIES.items()]

        messages = await published(broker)

    assert {(answer.status_code, answer.content) for answer in answers} == {(204, b"")}
    assert [wire.decode(message.body) for message in messages] == [
        ClearConfigurationCache.for_all("sed", "officia")
    ] * len(BODIES)
    assert {(message.app_id, message.headers["traceparent"]) for message in messages} == {
        ("configcache gateway", TRACEPARENT)
    }
    assert all(message.headers["published-at"] for message in messages)


async def test_requests_are_counted_by_status_and_timed(broker):
    async with serving(broker) as front:
        await front.ready()
        for body in (BODIES[JSON], BODIES[JSON], b"{"):
            await front.call(body)

        told = Told((await front.gateway.metrics.expose("")).body.decode())

    assert told("configcache_gateway_requests_total", status="204") == 2
    assert told("configcache_gateway_requests_total", status="400") == 1
    assert told("configcache_gateway_requests_total", status="503") == 0
    assert told("configcache_gateway_request_duration_seconds_count") == 3
    assert told("configcache_gateway_requests_in_progress") == 0
    assert told("configcache_gateway_connected") == 1


async def test_what_keeps_the_command_from_the_queue_is_503_in_time_and_over_when_it_is(broker):
    async with Proxy(broker) as line, serving(line.url) as front:
        await front.ready()
        for trouble, end in ((line.freeze, line.thaw), (line.refuse, line.accept)):
            trouble()
            begun = time.monotonic()

            answer = await front.call()

            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert answer.json()["ErrorType"] == "BrokerUnavailable"
            assert time.monotonic() - begun < TIMEOUT_S + 1
            end()
            await eventually(lambda: served(front))
        await delete_queue(broker, COMMAND_QUEUE)

        unroutable = await front.call()

        assert (unroutable.status_code, unroutable.json()["ErrorType"]) == (503, "Unroutable")
        await declare(broker)
        assert await served(front)


async def served(front):
    return (await front.call()).status_code == 204


async def test_a_gateway_without_a_broker_starts_says_so_and_serves_as_soon_as_there_is_one(broker):
    async with Proxy(broker) as line:
        line.refuse()
        async with serving(line.url) as front:
            answer = await front.call()
            readiness = await front.gateway.readiness()
            line.accept()
            await front.ready()

            assert await served(front)

    assert answer.status_code == 503
    assert readiness.reasons == {"broker": "no connection"}


def done(calls):
    return sum(call.done() for call in calls.values())


async def test_of_many_calls_over_a_bad_line_every_204_is_in_the_queue(broker):
    async with Proxy(broker) as line, serving(line.url, publish_timeout_s=2) as front:
        await front.ready()
        calls = {number: asyncio.create_task(front.own(number)) for number in range(200)}
        for answered in (20, 80):
            await eventually(lambda least=answered: done(calls) > least)
            line.cut()
        statuses = {number: await call for number, call in calls.items()}

    instances = {int(command.instance) for command in await arrived(broker)}

    assert set(statuses.values()) <= {204, 503}
    assert {number for number, status in statuses.items() if status == 204} <= instances
    assert sum(status == 204 for status in statuses.values()) > 50


async def test_a_stop_under_load_answers_whoever_was_heard_and_loses_nothing(broker):
    async with serving(broker, publish_timeout_s=5) as front:
        await front.ready()
        calls = {number: asyncio.create_task(front.own(number)) for number in range(200)}
        await eventually(lambda: done(calls) > 20)
        front.gateway.stop()
        statuses = {number: await call for number, call in calls.items()}

    instances = {int(command.instance) for command in await arrived(broker)}

    # None: not connected any more, or told to connect again; nothing of these was published.
    assert set(statuses.values()) <= {204, None}
    assert {number for number, status in statuses.items() if status == 204} == instances
