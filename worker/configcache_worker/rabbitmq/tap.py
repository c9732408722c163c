"""
The delivery tap: a transport for the AMQP library through which one consumer's deliveries do not reach the
library.

A protocol of ours sees the bytes first. It hands the deliveries on as one list per read and passes everything
else to the library, aiormq. That is where the worker gets its speed from, the library spending twenty times
as long on a delivery, and its safety: properties that the library cannot decode would end its reader, the
connection and the next one too.

What a delivery means is left to ``deliveries``; how it is cut out is in ``frames``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp.heartbeat import Heartbeat
from yarl import URL

from configcache_worker.core.ports import Delivery
from configcache_worker.rabbitmq.frames import DeliveryCutter, ProtocolError

HEARTBEAT_INTERVAL_S: Final = 2.0
"""
How long bytes may come without any for aiormq before it is given a heartbeat. It judges by the frames it sees
whether the broker is alive, and gives up after three times the negotiated heartbeat, which is 1 s or more.
"""

_HEARTBEAT: Final = Heartbeat().marshal()


class DeliveryTap(asyncio.StreamReaderProtocol):
    """
    Feeds aiormq's stream reader, and from :meth:`watch` on keeps one consumer's deliveries to itself.

    Once it has ended, for whatever reason, no more deliveries are handed on.
    """

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._clock = loop.time
        self._cutter = DeliveryCutter()
        self._socket: asyncio.Transport | None = None
        self._sink: Callable[[list[Delivery]], None] | None = None
        self._on_ended: Callable[[str], None] | None = None
        self._ending: str | None = None
        self._fed_at = 0.0

    def watch(
        self,
        channel: int,
        consumer_tag: str,
        *,
        sink: Callable[[list[Delivery]], None],
        on_ended: Callable[[str], None],
    ) -> None:
        """
        Begin to cut out the deliveries of *consumer_tag* on *channel*. Call it before the consumer is
        registered.

        Args:
            channel: The channel's number.
            consumer_tag: Chosen by us, since the first deliveries may come in one read with the broker's
            answer.
            sink: Gets the deliveries of each read that completed any. An exception from it ends the
            connection.
            on_ended: Called once, with the reason, in the very moment something ends the consumer: the
            broker's close or
                cancel, bytes that are not AMQP, the loss of the connection.
        """
        self._sink, self._on_ended = sink, on_ended
        self._fed_at = self._clock()
        self._cutter.watch(channel, consumer_tag)
        if self._ending is not None:
            on_ended(self._ending)

    @property
    def is_writable(self) -> bool:
        """Whether the connection is open. If not, its end has been told or is about to be."""
        return self._socket is not None and not self._socket.is_closing()

    def write(self, frames: bytes) -> None:
        """Send whole frames now. aiormq writes whole frames as well, so the two never mix within one."""
        assert self._socket is not None
        self._socket.write(frames)

    def pause(self) -> None:
        """Read no more from the socket for now. Safe to repeat."""
        if self._socket is not None and self.is_writable and self._socket.is_reading():
            self._socket.pause_reading()

    def resume(self) -> None:
        """Go on reading. Safe to repeat."""
        if self._socket is not None and self.is_writable and not self._socket.is_reading():
            self._socket.resume_reading()

    def abort(self) -> None:
        """Drop the connection without a goodbye. Safe to repeat."""
        if self._socket is not None:
            self._socket.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        try:
            deliveries, rest = self._cutter.feed(data)
            if self._cutter.ending is not None:
                self._end(self._cutter.ending)
            if deliveries and self._sink is not None and self._ending is None:
                self._sink(deliveries)
        except ProtocolError as error:
            self._end(f"the broker sent what is not AMQP: {error}")
            self.abort()
            return
        except Exception as error:
            self._end(f"taking deliveries failed: {error!r}")
            self.abort()
            raise  # a fault of this program: the event loop reports it with its traceback
        self._feed_reader(rest)

    def eof_received(self) -> bool | None:
        self._end("the broker closed the connection")
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection was lost: {exc}" if exc else "the connection was closed")
        super().connection_lost(exc)

    def _feed_reader(self, rest: bytes) -> None:
        if not rest and self._sink is not None and self._clock() - self._fed_at >= HEARTBEAT_INTERVAL_S:
            rest = _HEARTBEAT
        if rest:
            self._fed_at = self._clock()
            super().data_received(rest)

    def _end(self, reason: str) -> None:
        if self._ending is None:
            self._ending = reason
            if self._on_ended is not None:
                self._on_ended(reason)


class TapTransportFactory(TransportFactory):
    """Opens one connection, TCP or TLS by the URL, with a :class:`DeliveryTap` in it."""

    def __init__(self) -> None:
        self._tap: DeliveryTap | None = None

    @property
    def tap(self) -> DeliveryTap:
        """The tap in the connection that was opened."""
        assert self._tap is not None, "nothing has been opened yet"
        return self._tap

    async def create(
        self,
        url: URL,
        **kwargs: Any,  # noqa: ANN401 - the signature is aiormq's
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """
        Do what aiormq's own factories do, which is :func:`asyncio.open_connection`, with another protocol.
        """
        context_provider = kwargs.pop("ssl_context_provider")
        context = await context_provider.get_context() if url.scheme == "amqps" else None
        assert url.host is not None, "aiormq was given a URL without a host"
        assert url.port is not None, "aiormq fills in the port"
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        self._tap = tap = DeliveryTap(reader, loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: tap, url.host, url.port, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        return reader, asyncio.StreamWriter(transport, tap, reader, loop)
