"""
The HTTP server: uvicorn within our own event loop, with our signals, our log lines, and bounds for slow clients.

uvicorn bounds neither how long the head of a request may take to come nor how long an answer may take to go, and tells a
client whose request is not HTTP in a shape of its own. Its protocol is extended by these three here, and by nothing else.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from configcache_worker.gateway.errors import INVALID_ARGUMENT, Unserved
from configcache_worker.observe.health import StartRefused

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from configcache_worker.settings import GatewaySettings

_BACKLOG: Final = 2048
_GRACE_S: Final = 2.0  # for what is cancelled to be answered, and for connections to close


class GatewayServer:
    """
    Serves *application* from :meth:`start` to :meth:`stop`.

    Args:
        application: Takes the requests.
        settings: Address, limits, TLS and proxies.
    """

    def __init__(self, application: ASGIApp, settings: GatewaySettings) -> None:
        self._settings = settings
        self._config = _Config(application, settings)
        self._server = uvicorn.Server(self._config)
        self._socket: socket.socket | None = None
        self._ticking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "serving" if self._socket else "stopped"
        return f"<GatewayServer {self._settings.host}:{self.port} {state}>"

    @property
    def port(self) -> int:
        """The port served, while serving; else the one asked for."""
        return int(self._socket.getsockname()[1]) if self._socket else self._settings.port

    async def start(self) -> None:
        """
        Begin to serve.

        Raises:
            StartRefused: Address, port or certificate can't be had. The text says which.
        """
        self._load()
        listening = await self._listen()
        # Its serve() would take over the signals.
        self._server.lifespan = self._config.lifespan_class(self._config)
        await self._server.startup(sockets=[listening])
        self._socket = listening
        self._ticking = asyncio.create_task(self._server.main_loop(), name="http server's clock")

    async def stop(self) -> int:
        """
        Take no new connections, finish the requests that have begun within ``drain_timeout_s``, and close.

        Safe to repeat, and without a start.

        Returns:
            How many requests were cut off.
        """
        if self._socket is None or self._ticking is None:
            return 0
        listening, self._socket = self._socket, None
        # asyncio forgets, unclosed, what it has accepted but not yet set up when its server closes (python/cpython#109564):
        # so accept nothing more, and let it set up what it has.
        asyncio.get_running_loop().remove_reader(listening)
        await asyncio.sleep(0)
        for server in self._server.servers:
            server.close()
        listening.close()
        self._ticking.cancel()
        await asyncio.gather(self._ticking, return_exceptions=True)
        for connection in list(self._server.server_state.connections):
            connection.shutdown()  # at once if it is idle, else behind its answer
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._until_idle()
        except TimeoutError:
            return await self._cut_off()
        return 0

    async def _until_idle(self) -> None:
        """Wait until every request is done, also of a client that has gone, and every connection is closed."""
        state = self._server.server_state
        while state.connections or state.tasks:
            if state.tasks:
                await asyncio.wait(set(state.tasks))
            elif not await self._connection_ends():
                for connection in list(state.connections):
                    connection.transport.abort()
                return

    async def _connection_ends(self) -> bool:
        """
        Wait until a connection has ended.

        False if all are closing and none has ended for a while: with TLS a client says farewell too, and one that keeps its
        connection for later does not read, so it never would.
        """
        self._config.connection_ended.clear()
        connections = self._server.server_state.connections
        are_closing = all(connection.transport.is_closing() for connection in connections)
        try:
            async with asyncio.timeout(_GRACE_S if are_closing else None):
                await self._config.connection_ended.wait()
        except TimeoutError:
            return False
        return True

    async def _cut_off(self) -> int:
        """Cancel what is still being served; the application answers that. Then drop the connections."""
        state = self._server.server_state
        tasks = set(state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE_S)
        for connection in list(state.connections):
            connection.transport.close()
        return len(tasks)

    def _load(self) -> None:
        if self._config.loaded:
            return
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as error:
            reason = error.strerror or str(error)
            raise StartRefused(
                f"can't serve HTTPS with the certificate {self._settings.tls_certificate} "
                f"and the key {self._settings.tls_key}: {reason}"
            ) from error

    async def _listen(self) -> socket.socket:
        host, port = self._settings.host, self._settings.port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, *_, address = found[0]
            return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        except OSError as error:
            raise StartRefused(f"can't serve on gateway.host {host}, gateway.port {port}: {error}") from error


class _Config(uvicorn.Config):
    def __init__(self, application: ASGIApp, settings: GatewaySettings) -> None:
        super().__init__(
            application,
            http=_Protocol,
            ws="none",
            lifespan="off",
            # What matters of its log is an error; requests have a line of ours.
            log_config=None,
            log_level="error",
            access_log=False,
            workers=1,
            proxy_headers=bool(settings.forwarded_allow_ips.strip()),
            forwarded_allow_ips=settings.forwarded_allow_ips,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=settings.keep_alive_s,
            h11_max_incomplete_event_size=settings.max_head_bytes,
            ssl_certfile=_file(settings.tls_certificate),
            ssl_keyfile=_file(settings.tls_key),
        )
        self.client_timeout_s = settings.receive_timeout_s
        self.connection_ended = asyncio.Event()


def _file(name: str) -> Path | None:
    return Path(name) if name else None


class _Protocol(H11Protocol):
    """uvicorn's, which waits for no client for ever, and answers in our shape to what is not HTTP."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # So that all that can't be sent at once is known, and not only that which is much.
        transport.set_write_buffer_limits(high=1)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        # Aborted: to close it would wait for the client again.
        self._write_timer = self.loop.call_later(self._own_config.client_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._forget_write()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        self._forget_write()
        super().connection_lost(exc)
        self._own_config.connection_ended.set()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:  # answered already
            self.transport.close()
            return
        answer = Unserved(
            400, INVALID_ARGUMENT, "the request is not HTTP/1.1, or its head is too large"
        ).response("")
        answer.headers["X-Request-ID"] = uuid.uuid4().hex
        answer.headers["Connection"] = "close"
        head = h11.Response(status_code=400, headers=answer.raw_headers, reason=b"Bad Request")
        self.transport.write(self.conn.send(head))
        self.transport.write(self.conn.send(h11.Data(data=bytes(answer.body))))
        self.transport.write(self.conn.send(h11.EndOfMessage()))
        self.transport.close()

    @property
    def _own_config(self) -> _Config:
        assert isinstance(self.config, _Config), "it is the protocol of that"
        return self.config

    def _watch_head(self) -> None:
        """Wait for a request's head, once something of it may be missing; or no more, since it has come."""
        if self.transport.is_closing() or self.conn.our_state not in {h11.IDLE, h11.DONE}:
            self._forget_head()
        elif self._is_between_requests:
            # What has come was the rest of a request that was answered before. uvicorn keeps the time from an answer on.
            self._forget_head()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self._own_config.client_timeout_s, self.timeout_keep_alive_handler
            )

    @property
    def _is_between_requests(self) -> bool:
        has_served = self.cycle is not None
        return has_served and self.conn.our_state is h11.IDLE and not self.conn.trailing_data[0]

    def _forget_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _forget_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
