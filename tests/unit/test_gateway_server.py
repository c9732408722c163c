"""The gateway's HTTP server on a socket: what is no request, slow clients, proxies, TLS, and the way to a stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl

import pytest

from configcache.recording import RecordingPublisher
from configcache_worker.gateway.asgi import CALL_PATH, OPENAPI_PATH
from configcache_worker.gateway.authentication import Refusal
from configcache_worker.gateway.gateway import Gateway
from configcache_worker.gateway.server import GatewayServer
from configcache_worker.observe.health import StartRefused
from configcache_worker.settings import GatewaySettings
from tests.gateways import JSON, SAMPLE, Calls, application
from tests.waiting import eventually

LOCALHOST = "127.0.0.1"


class Line:
    """A connection to a gateway."""

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer

    def send(self, data):
        self.writer.write(data)

    async def answer(self):
        """Status, headers and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def is_closed(self):
        """Whether the other side has closed; waits until it has."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


def request(body=SAMPLE, *, length=None, path=CALL_PATH, **headers):
    """The call as bytes."""
    fields = {
        "Host": "gateway",
        "Content-Type": JSON,
        "Content-Length": len(body) if length is None else length,
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Served:
    """A gateway's server, and lines to it."""

    def __init__(self, server, app, publisher, stack):
        self.server = server
        self.app = app
        self.publisher = publisher
        self._stack = stack

    async def line(self, **tls):
        reader, writer = await asyncio.open_connection(LOCALHOST, self.server.port, **tls)
        self._stack.callback(writer.close)
        return Line(reader, writer)


@contextlib.asynccontextmanager
async def serving(*, publisher=None, authenticator=None, **settings):
    """A server on a free port, with *settings* of the gateway."""
    settings = GatewaySettings(port=0, **settings)
    async with contextlib.AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(publisher or RecordingPublisher())
        app = application(
            publisher, authenticator=authenticator, receive_timeout_s=settings.receive_timeout_s
        )
        server = GatewayServer(app, settings)
        await server.start()
        stack.push_async_callback(server.stop)
        yield Served(server, app, publisher, stack)


async def test_a_connection_serves_many_requests_and_says_nothing_of_its_server():
    async with serving() as gateway:
        line = await gateway.line()
        for _ in range(3):
            line.send(request())
            status, headers, _ = await line.answer()

            assert status == 204
            assert set(headers) == {"date", "x-request-id"}

    assert len(gateway.publisher.commands) == 3


async def test_requests_in_a_row_are_answered_in_their_order():
    async with serving() as gateway:
        line = await gateway.line()
        line.send(request() + request(b"") + request())

        assert [(await line.answer())[0] for _ in range(3)] == [204, 400, 204]


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2_000,
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=["words", "version", "length", "two-lengths", "large-head", "tls"],
)
async def test_what_is_no_request_is_400_in_our_shape_and_ends_the_connection(sent):
    async with serving(max_head_bytes=1_024) as gateway:
        line = await gateway.line()
        line.send(sent + b"\r\n")

        status, headers, body = await line.answer()

        assert (status, headers["connection"]) == (400, "close")
        assert headers["x-request-id"]
        assert json.loads(body)["ErrorType"] == "SoInvalidArgumentException"
        assert await line.is_closed()


async def test_a_body_that_is_announced_as_too_large_is_refused_before_it_is_sent():
    async with serving() as gateway:
        line = await gateway.line()
        line.send(request(b"", length=10**9))

        status, headers, _ = await line.answer()

        assert (status, headers["connection"]) == (413, "close")
        assert await line.is_closed()


async def test_who_waits_for_100_continue_gets_it_only_when_the_body_is_wanted():
    async with serving() as gateway:
        wanted = await gateway.line()
        wanted.send(request(b"", length=len(SAMPLE), Expect="100-continue"))
        first = await wanted.answer()
        wanted.send(SAMPLE)
        second = await wanted.answer()
        unwanted = await gateway.line()
        unwanted.send(request(b"", length=len(SAMPLE), Expect="100-continue", Content_Type="text/plain"))
        refused = await unwanted.answer()

        assert (first[0], second[0], refused[0]) == (100, 204, 415)
        assert await unwanted.is_closed()


async def test_a_body_in_chunks_is_read():
    async with serving() as gateway:
        line = await gateway.line()
        line.send(request(b"", length=None, Content_Length=None, Transfer_Encoding="chunked"))
        for start in range(0, len(SAMPLE), 10):
            piece = SAMPLE[start : start + 10]
            line.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        line.send(b"0\r\n\r\n")

        assert (await line.answer())[0] == 204


async def test_a_refused_request_with_a_small_body_keeps_its_connection():
    async with serving() as gateway:
        line = await gateway.line()
        line.send(request(b"x" * 100, Content_Type="text/plain") + request())

        assert [(await line.answer())[0] for _ in range(2)] == [415, 204]


# Long enough for a head to arrive, where one is to arrive, also on a machine that is busy with something else.
@pytest.mark.parametrize(
    ("sent", "answer", "timeout_s"),
    [(b"", b"", 0.02), (b"POST / HT", b"", 0.02), (request()[:-1], b"HTTP/1.1 408", 0.3)],
    ids=["nothing", "head", "body"],
)
async def test_a_client_that_says_nothing_more_is_not_waited_for_without_end(sent, answer, timeout_s):
    async with serving(receive_timeout_s=timeout_s) as gateway:
        line = await gateway.line()
        line.send(sent)

        assert (await line.reader.read())[:12] == answer

    assert gateway.publisher.commands == []


async def test_between_two_requests_a_client_may_take_its_time():
    async with serving(receive_timeout_s=0.3) as gateway:
        line = await gateway.line()
        line.send(request())
        await line.answer()
        await asyncio.sleep(0.4)  # what must not happen would have happened by then
        line.send(request())

        assert (await line.answer())[0] == 204


async def test_the_rest_of_a_refused_request_does_not_end_a_connection_early():
    refusal = Refusal(401, "SoSessionException", "who are you?")
    async with serving(authenticator=Calls(refusal), receive_timeout_s=0.3) as gateway:
        line = await gateway.line()
        line.send(request(b"", length=len(SAMPLE)))
        await line.answer()
        line.send(SAMPLE)
        await asyncio.sleep(0.4)  # as above
        line.send(request())

        assert (await line.answer())[0] == 401


async def test_a_client_that_does_not_read_is_not_waited_for_without_end():
    async with serving(receive_timeout_s=0.1) as gateway:
        _, writer = await asyncio.open_connection(LOCALHOST, gateway.server.port, limit=1)
        writer.write(f"GET {OPENAPI_PATH} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode() * 2_000)
        connections = gateway.server._server.server_state.connections
        await eventually(lambda: connections)

        await eventually(lambda: not connections)
        writer.close()


class Seen(Calls):
    """Remembers where callers are."""

    async def authenticate(self, request):
        self.client = request.client.host
        return await super().authenticate(request)


@pytest.mark.parametrize(
    ("believed", "client"), [("", LOCALHOST), ("127.0.0.0/8", "192.0.2.1"), ("10.0.0.0/8", LOCALHOST)]
)
async def test_a_proxys_word_on_who_calls_counts_only_if_it_is_believed(believed, client):
    seen = Seen()
    async with serving(authenticator=seen, forwarded_allow_ips=believed) as gateway:
        line = await gateway.line()
        line.send(request(X_Forwarded_For="203.0.113.9, 192.0.2.1"))
        await line.answer()

    assert seen.client == client


# Start and stop


async def test_a_port_that_is_taken_is_told():
    with socket.create_server((LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartRefused, match=rf"gateway\.port {port}: .*in use"):
            await GatewayServer(Calls(), GatewaySettings(port=port)).start()


async def test_a_certificate_that_is_missing_is_told(tmp_path):
    missing = str(tmp_path / "cert.pem")

    with pytest.raises(StartRefused, match=r"cert\.pem.*No such file"):
        await GatewayServer(
            Calls(), GatewaySettings(port=0, tls_certificate=missing, tls_key=missing)
        ).start()


async def test_it_can_be_stopped_twice_and_without_a_start():
    server = GatewayServer(Calls(), GatewaySettings(port=0))

    assert [await server.stop(), await server.stop()] == [0, 0]


async def test_with_a_certificate_the_call_is_served_by_https(certificate):
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)
    async with serving(tls_certificate=cert, tls_key=key) as gateway:
        line = await gateway.line(ssl=context, server_hostname="localhost")
        line.send(request())

        assert (await line.answer())[0] == 204


@pytest.fixture
def certificate(tmp_path):
    """Files of a certificate for localhost, and of its key."""
    from tests.certificates import self_signed

    return self_signed(tmp_path)


class Slow(RecordingPublisher):
    """Publishes when it is told to."""

    def __init__(self):
        super().__init__()
        self.may_publish = asyncio.Event()
        self.is_asked = asyncio.Event()

    async def _attempt(self, body, context):
        self.is_asked.set()
        await self.may_publish.wait()
        await super()._attempt(body, context)


async def test_a_stop_finishes_what_has_begun_and_takes_nothing_new():
    slow = Slow()
    async with serving(publisher=slow) as gateway:
        port = gateway.server.port
        busy, idle = await gateway.line(), await gateway.line()
        busy.send(request())
        await slow.is_asked.wait()
        stopping = asyncio.create_task(gateway.server.stop())

        assert await idle.is_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(LOCALHOST, port)
        slow.may_publish.set()

        assert (await busy.answer())[0] == 204
        assert await stopping == 0
        assert await busy.is_closed()

    assert len(slow.commands) == 1


async def test_a_connection_accepted_in_the_moment_of_the_stop_is_closed():
    async with serving() as served:
        with socket.create_connection((LOCALHOST, served.server.port)) as client:
            client.setblocking(False)
            # In the first turn of the loop it is accepted, in the second set up; the stop comes between.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

            await served.server.stop()

            async with asyncio.timeout(5):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def test_a_stop_does_not_wait_for_the_farewell_of_a_client_that_is_not_there(certificate, monkeypatch):
    monkeypatch.setattr("configcache_worker.gateway.server._GRACE_S", 0.05)
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)

    def connect(port):
        connection = context.wrap_socket(
            socket.create_connection((LOCALHOST, port)), server_hostname="localhost"
        )
        connection.sendall(request())
        connection.recv(4_096)
        return connection  # kept for later, and not read meanwhile

    async with serving(tls_certificate=cert, tls_key=key) as gateway:
        with await asyncio.to_thread(connect, gateway.server.port):
            async with asyncio.timeout(5):
                assert await gateway.server.stop() == 0


async def test_what_a_stop_can_not_wait_for_is_answered_503():
    slow = Slow()
    async with serving(publisher=slow, drain_timeout_s=0.05) as gateway:
        busy, half = await gateway.line(), await gateway.line()
        busy.send(request())
        half.send(request()[:-1])
        await eventually(lambda: slow.is_asked.is_set() and gateway.app.in_progress == 2)

        cut_off = await gateway.server.stop()

        assert cut_off == 2
        assert [(await line.answer())[0] for line in (busy, half)] == [503, 503]
        assert await busy.is_closed()

    assert slow.commands == []


# The whole service, with a broker that is a list


def gateway(publisher, *, port=0, **options):
    app = application(publisher)
    server = GatewayServer(app, GatewaySettings(port=port))
    return Gateway(server=server, application=app, publisher=publisher, health_address=None, **options)


async def line_to(service):
    """A connection to *service*, which is about to start."""
    while not service.server.port:
        await asyncio.sleep(0)
    return Line(*await asyncio.open_connection(LOCALHOST, service.server.port))


class Callers:
    """What an authenticator needs, open or not."""

    is_open = False

    async def __aenter__(self):
        self.is_open = True

    async def __aexit__(self, *_):
        self.is_open = False


async def test_the_service_opens_what_it_needs_serves_and_closes_it():
    slow, callers = Slow(), Callers()
    service = gateway(slow, callers=callers)
    running = asyncio.create_task(service.run())
    line = await line_to(service)
    line.send(request())
    await slow.is_asked.wait()

    service.stop()
    while not service._application.is_stopping:
        await asyncio.sleep(0)
    was_open = callers.is_open
    slow.may_publish.set()
    status, headers, _ = await line.answer()
    await running
    line.writer.close()

    assert (status, headers["connection"]) == (204, "close")
    assert (was_open, callers.is_open) == (True, False)
    assert len(slow.commands) == 1


async def test_readiness_tells_what_is_missing():
    async def troubles():
        return {"database": "away"}

    publisher = RecordingPublisher()
    service = gateway(publisher, troubles=troubles)
    async with publisher:
        first = await service.readiness()
    service.stop()
    second = await service.readiness()

    assert first.reasons == {"database": "away"}
    assert set(second.reasons) == {"database", "gateway", "broker"}
    assert not second.ready


async def test_a_server_that_can_not_be_had_ends_the_service():
    with socket.create_server((LOCALHOST, 0)) as taken:
        service = gateway(RecordingPublisher(), port=taken.getsockname()[1])

        with pytest.raises(StartRefused):
            await service.run()
