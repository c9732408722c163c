"""The examples run as they are. (Those with tests of their own run in ``tests/acceptance/test_wheel.py``.)"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache import ClearConfigurationCache, wire
from configcache.topology import COMMAND_QUEUE
from configcache_worker.app import build_relay
from tests.chaos.load import delete_queue
from tests.commands import declare, published
from tests.docs.documents import PROJECT
from tests.waiting import eventually

EXAMPLES = PROJECT / "examples"
ALL = ClearConfigurationCache.for_all("WebClient", "Web")
FAR = 9_007_199_254_740_993  # the first that a double can't hold
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def commands_in(url):
    return [
        wire.decode(message.body, wire.Properties(message.content_type, None, message.type))
        for message in await published(url)
    ]


async def run(command, **environment):
    """The exit code and what was printed."""
    outcome = await asyncio.to_thread(
        subprocess.run,
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    return outcome.returncode, outcome.stdout.strip()


# Python


@contextlib.asynccontextmanager
async def served(app):
    """Runs the lifespan of an ASGI application; gives a function that makes a request of it: status and body."""
    to_app, from_app = asyncio.Queue(), asyncio.Queue()
    state = {}
    lifespan = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    living = asyncio.create_task(app(lifespan, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"

    async def request(method, path, **headers):
        answers = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "state": dict(state),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            answers.append(message)

        await app(scope, receive, send)
        return answers[0]["status"], b"".join(answer.get("body", b"") for answer in answers[1:])

    yield request
    await to_app.put({"type": "lifespan.shutdown"})
    assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
    await living


async def test_a_web_service_keeps_one_publisher_for_its_life(vhost, monkeypatch):
    await declare(vhost)
    monkeypatch.setenv("BROKER_URL", vhost)
    monkeypatch.syspath_prepend(EXAMPLES)
    from starlette_service import app

    async with served(app) as request:
        assert await request("PUT", "/layouts/Web", traceparent=TRACEPARENT) == (204, b"")
        (message,) = await published(vhost)
        await delete_queue(vhost, COMMAND_QUEUE)
        status, body = await request("PUT", "/layouts/Web")

    assert wire.decode(message.body) == ALL
    assert message.headers["traceparent"] == TRACEPARENT
    assert status == 503
    assert json.loads(body)["cleared"] is False
    sys.modules.pop("starlette_service")


# SQL


NOTHING_WAITS = "SELECT NOT EXISTS (SELECT FROM configuration_cache_outbox)"


async def test_a_watched_table_clears_the_cache_without_anybody_asking(new_system):
    example = (EXAMPLES / "externalapplication.sql").read_text()
    rows = [("WebClient", "Web", associate, "Panel") for associate in (1, 2)]
    async with new_system() as system:
        relay = build_relay(system.settings)
        relaying = asyncio.create_task(relay.run())
        connection = await asyncpg.connect(system.settings.database.url)
        await connection.execute(example)

        async def clears(change):
            await system.fill([*rows, ("WebClient", "Mobile", 1, "Panel")])
            await connection.execute(change)
            await eventually(lambda: connection.fetchval(NOTHING_WAITS))
            await system.settled()
            left = await system.rows()
            assert ("WebClient", "Mobile", 1, "Panel") in left
            return not left & set(rows)

        assert await clears(
            "INSERT INTO externalapplication VALUES (1, 'Weather', 'https://weather.example')"
        )
        assert not await clears("UPDATE externalapplication SET last_used = now(), updated_by = 7")
        assert not await clears("BEGIN; DELETE FROM externalapplication; ROLLBACK")
        assert await clears("INSERT INTO externalapplication_group VALUES (1, 10)")
        assert await clears("UPDATE externalapplication SET settings = '{\"height\": 200}'")
        assert await clears("DELETE FROM externalapplication")

        await connection.close()
        relay.stop()
        await relaying


# Other languages


@pytest.fixture
def node(tmp_path):
    """The example for Node in a folder with its library."""
    modules = EXAMPLES / "node_modules"
    if shutil.which("node") is None or not (modules / "amqplib").is_dir():
        pytest.skip("Node and amqplib are not here: npm install --prefix examples")
    return ["node", str(EXAMPLES / "producer.mjs")]


async def test_node_publishes_with_confirm_and_return(node, vhost):
    await declare(vhost)
    assert await run([*node, "WebClient", "Web"], BROKER_URL=vhost) == (0, "published")
    assert await run([*node, "WebClient", 'Grö"ße', str(FAR)], BROKER_URL=vhost) == (0, "published")
    assert await commands_in(vhost) == [
        ALL,
        ClearConfigurationCache.for_associate("WebClient", 'Grö"ße', FAR),
    ]

    await delete_queue(vhost, COMMAND_QUEUE)
    code, output = await run([*node, "WebClient", "Web"], BROKER_URL=vhost)
    assert (code, "configcache topology" in output) == (1, True), output


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:1/", "without the exchange"])
async def test_node_says_so_when_it_could_not_publish(node, vhost, url):
    code, output = await run([*node, "WebClient", "Web"], BROKER_URL=url if "amqp" in url else vhost)

    assert code == 1
    assert output.startswith("not published: ")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
async def test_the_shell_publishes_by_the_management_api(managed):
    broker_url, management_url, _ = managed
    await declare(broker_url)
    parts = urlsplit(broker_url)
    environment = {
        "MANAGEMENT_URL": management_url,
        "BROKER_USER": f"{parts.username}:{parts.password}",
        "VHOST": "/",
    }
    script = str(EXAMPLES / "producer.sh")
    assert await run([script, "WebClient", "Web"], **environment) == (0, "published")
    assert await run([script, "WebClient", "Web", str(FAR)], **environment) == (0, "published")
    assert await commands_in(broker_url) == [
        ALL,
        ClearConfigurationCache.for_associate("WebClient", "Web", FAR),
    ]

    for wrong in (["WebClient"], ['Web"Client', "Web"], ["WebClient", "Web", "4.0"]):
        code, output = await run([script, *wrong], **environment)
        assert (code, output.startswith("not published: ")) == (1, True), output
    await delete_queue(broker_url, COMMAND_QUEUE)
    code, output = await run([script, "WebClient", "Web"], **environment)
    assert (code, "configcache topology" in output) == (1, True), output
    await declare(broker_url)
