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

from configcache.stream import Stream
from configcache_worker.core.ports import Delivery
from configcache_worker.rabbitmq.frames import DeliveryCutter, ProtocolError


class DeliveryTap(Stream):
    """
    Feeds aiormq's stream reader, and from :meth:`watch` on keeps one consumer's deliveries to itself.

    Once it has ended, for whatever reason, no more deliveries are handed on.
    """

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop)
        self._cutter = DeliveryCutter()
        self._sink: Callable[[list[Delivery]], None] | None = None
        self._on_ended: Callable[[str], None] | None = None
        self._ending: str | None = None

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
        self.cuts_from_now()
        self._cutter.watch(channel, consumer_tag)
        if self._ending is not None:
            on_ended(self._ending)

    def pause(self) -> None:
        """Read no more from the socket for now. Safe to repeat."""
        if self._socket is not None and self.is_writable and self._socket.is_reading():
            self._socket.pause_reading()

    def resume(self) -> None:
        """Go on reading. Safe to repeat."""
        if self._socket is not None and self.is_writable and not self._socket.is_reading():
            self._socket.resume_reading()

    # What the event loop calls.

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
        self.pass_on(rest)

    def eof_received(self) -> bool | None:
        self._end("the broker closed the connection")
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection was lost: {exc}" if exc else "the connection was closed")
        super().connection_lost(exc)

    def _end(self, reason: str) -> None:
        if self._ending is None:
            self._ending = reason
            if self._on_ended is not None:
                self._on_ended(reason)
