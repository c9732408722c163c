"""The probes, asked over a socket as an orchestrator asks them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading

import pytest

from configcache_worker.observe import health
from configcache_worker.observe.health import Exposition, HealthServer, Readiness, StartRefused

READY = Readiness(ready=True)
PAUSED = Readiness(ready=False, reasons={"database": "read-only: SQLSTATE 25006"})


class Worker:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.answer = READY

    async def readiness(self) -> Readiness:
        return self.answer


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
async def server(worker):
    server = HealthServer("127.0.0.1", 0, readiness=worker.readiness)
    await server.start()
    yield server
    await server.stop()


async def say(server: HealthServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def ask(server: HealthServer, target: str, method: str = "GET") -> tuple[int, dict[str, object]]:
    answer = await say(server, f"{method} {target} HTTP/1.1\r\nHost: probe\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    return int(head.split()[1]), json.loads(body)


async def test_alive_while_the_loop_turns(server):
    assert await ask(server, "/livez") == (200, {"live": True})


def test_a_loop_that_does_not_turn_is_not_alive():
    started, port, release, answered = threading.Event(), [], threading.Event(), threading.Event()

    async def serve():
        server = HealthServer("127.0.0.1", 0, readiness=Worker().readiness)
        await server.start()
        port.append(server.port)
        started.set()
        release.wait(10)  # what no coroutine may do: nothing else runs meanwhile
        await asyncio.to_thread(answered.wait, 10)
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    started.wait(10)
    with socket.create_connection(("127.0.0.1", port[0]), timeout=0.05) as probe:
        probe.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        with pytest.raises(TimeoutError):
            probe.recv(1)
        release.set()
        probe.settimeout(5)

        assert probe.recv(100).startswith(b"HTTP/1.1 200 ")
    answered.set()
    thread.join()


async def test_metrics_are_answered_in_the_format_that_was_asked_for():
    async def expose(accept):
        return Exposition(f"text/{accept or 'plain'}", b"up 1\n")

    server = HealthServer("127.0.0.1", 0, readiness=Worker().readiness, metrics=expose)
    await server.start()
    usual = await say(server, b"GET /metrics HTTP/1.1\r\n\r\n")
    other = await say(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\naccept: odd\r\n\r\n")
    await server.stop()

    assert usual.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n")
    assert usual.endswith(b"\r\n\r\nup 1\n")
    assert b"Content-Type: text/odd\r\n" in other


async def test_without_metrics_there_are_none(server):
    status, answer = await ask(server, "/metrics")

    assert (status, answer) == (404, {"error": "there are /livez and /readyz"})


async def test_ready_answers_200(server):
    assert await ask(server, "/readyz") == (200, {"ready": True, "reasons": {}})


async def test_not_ready_answers_503_with_the_reasons(server, worker):
    worker.answer = PAUSED

    assert await ask(server, "/readyz?verbose") == (
        503,
        {"ready": False, "reasons": {"database": "read-only: SQLSTATE 25006"}},
    )


async def test_not_ready_is_still_alive(server, worker):
    worker.answer = PAUSED

    assert (await ask(server, "/livez"))[0] == 200


async def test_a_readiness_that_does_not_answer_counts_as_not_ready(server, worker, monkeypatch):
    monkeypatch.setattr(health, "_READINESS_TIMEOUT_S", 0.01)
    monkeypatch.setattr(server, "_readiness", asyncio.Event().wait)

    status, body = await ask(server, "/readyz")

    assert (status, body["ready"]) == (503, False)


async def test_unknown_paths_are_404(server):
    assert (await ask(server, "/"))[0] == 404


async def test_other_methods_are_405_and_told_which(server):
    answer = await say(server, b"POST /readyz HTTP/1.1\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: GET\r\n" in answer


@pytest.mark.parametrize(
    "request_",
    [b"nonsense\r\n\r\n", b"GET http://x HTTP/1.1\r\n\r\n", b"GET /livez HTTP/2\r\n\r\n", b"\r\n\r\n"],
)
async def test_what_is_not_http_is_400(server, request_):
    assert (await say(server, request_)).startswith(b"HTTP/1.1 400 ")


async def test_a_request_that_is_too_long_is_400(server):
    request = b"GET /livez HTTP/1.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n"

    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_client_that_says_nothing_is_dropped(server, monkeypatch):
    monkeypatch.setattr(health, "_REQUEST_TIMEOUT_S", 0.01)

    assert await say(server, b"GET /livez") == b""


async def test_a_silent_client_does_not_hold_up_the_others_nor_the_stop(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    assert (await ask(server, "/livez"))[0] == 200
    await server.stop()

    assert await reader.read() == b""
    writer.close()


async def test_stop_frees_the_port_and_may_be_repeated(server):
    port = server.port
    await server.stop()
    await server.stop()

    again = HealthServer("127.0.0.1", port, readiness=Worker().readiness)
    await again.start()

    assert (await ask(again, "/livez"))[0] == 200
    await again.stop()


async def test_a_port_in_use_is_an_error_that_names_it(server):
    other = HealthServer("127.0.0.1", server.port, readiness=Worker().readiness)

    with pytest.raises(StartRefused, match=str(server.port)):
        await other.start()
