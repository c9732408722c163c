"""
Beneath the driver: a socket whose bytes we see first.

aio-pika spends so long on a message, or on the answer to one, that this alone decides how fast a program can be. So what
comes by the thousand is cut out of the byte stream here, and written straight to the socket; handshake, heartbeats, errors
and whatever else is rare stay the driver's business, which is offered a public seam for it: its ``transport_factory``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp.heartbeat import Heartbeat
from yarl import URL

__all__ = ["HEARTBEAT_INTERVAL_S", "Stream", "StreamFactory"]

HEARTBEAT_INTERVAL_S: Final = 2.0
"""
How long bytes may come without any for the driver before it is given a heartbeat. It judges by the frames it sees whether
the broker is alive, and gives up after three times the negotiated heartbeat, which is 1 s or more.
"""

_HEARTBEAT: Final = Heartbeat().marshal()


class Stream(asyncio.StreamReaderProtocol):
    """Feeds the driver's stream reader. A subclass overrides :meth:`data_received`, and passes on what it leaves alone."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._clock = loop.time
        self._socket: asyncio.Transport | None = None
        self._passed_on_at: float | None = None
        """When the driver last got anything; None as long as it gets everything."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(
            "asyncio.Transport", transport
        )  # by what it can do: other event loops have classes of their own
        super().connection_made(transport)

    @property
    def is_writable(self) -> bool:
        """Whether the connection is open. If not, its end has been told or is about to be."""
        return self._socket is not None and not self._socket.is_closing()

    def write(self, frames: bytes) -> None:
        """Send whole frames now. The driver writes whole frames as well, so the two never mix within one."""
        assert self._socket is not None
        self._socket.write(frames)

    def abort(self) -> None:
        """Drop the connection without a goodbye. Safe to repeat."""
        if self._socket is not None:
            self._socket.abort()

    def cuts_from_now(self) -> None:
        """Say that from now on the driver does not get everything, so that it may need a sign of life."""
        self._passed_on_at = self._clock()

    def pass_on(self, rest: bytes) -> None:
        """Give *rest*, whole frames or nothing, to the driver; or a heartbeat, after a while of nothing."""
        if self._passed_on_at is not None:
            if not rest and self._clock() - self._passed_on_at >= HEARTBEAT_INTERVAL_S:
                rest = _HEARTBEAT
            if rest:
                self._passed_on_at = self._clock()
        if rest:
            super().data_received(rest)


P = TypeVar("P", bound=Stream)


class StreamFactory(TransportFactory, Generic[P]):
    """Opens connections, TCP or TLS by the URL, each with a protocol made by *make* in it."""

    def __init__(self, make: Callable[[asyncio.StreamReader, asyncio.AbstractEventLoop], P]) -> None:
        self._make = make
        self._stream: P | None = None

    @property
    def stream(self) -> P:
        """The protocol in the connection that was opened last."""
        assert self._stream is not None, "nothing has been opened yet"
        return self._stream

    async def create(
        self,
        url: URL,
        **kwargs: Any,  # noqa: ANN401 - the signature is aiormq's
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Do what aiormq's own factories do, which is :func:`asyncio.open_connection`, with another protocol."""
        context_provider = kwargs.pop("ssl_context_provider")
        context = await context_provider.get_context() if url.scheme == "amqps" else None
        assert url.host is not None, "aiormq was given a URL without a host"
        assert url.port is not None, "aiormq fills in the port"
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        self._stream = stream = self._make(reader, loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: stream, url.host, url.port, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        return reader, asyncio.StreamWriter(transport, stream, reader, loop)
