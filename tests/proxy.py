"""A TCP line to a server that a test can slow down, freeze, and cut in the middle of a frame."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

from yarl import URL

_READ_BYTES = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close() sends a reset


class Proxy:
    """
    Passes bytes between clients and the server of *url*; with *tls*, clients encrypt theirs. An async context manager.

    Every fault is for all its connections. Those that come later are not cut or forgotten, but slowed and frozen like
    the others.
    """

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._target = URL(url)
        self._tls = tls
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._passes: int | None = None
        self._cut = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_accepting = True
        self.delay_s = 0.0
        """How long each piece waits before it is passed on."""
        self.bytes_per_s: float | None = None
        """How fast bytes pass from the server to a client."""
        self.held_bytes = 0
        """What has come and waits for the thaw."""
        self.connections = 0
        """Connections accepted so far."""
        self.refused = 0
        """Connections reset at once so far."""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The server's URL, by way of this line."""
        here = self._target.with_host("127.0.0.1").with_port(self.port)
        return str(here.with_scheme("amqps") if self._tls else here)

    def freeze(self) -> None:
        """Pass nothing on, and close nothing: what a dead network does."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on what was held, and all that comes."""
        self._flowing.set()

    def forget(self) -> None:
        """Pass nothing more for the connections of now, and close none: what a firewall does that has lost its memory."""
        self._forgotten |= self._writers

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        self._passes = None
        self._cut.set()
        for writer in self._writers:
            with contextlib.suppress(OSError):  # it is closed on this side already
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                )
            writer.transport.abort()
        self._writers.clear()

    async def cut_after(self, count: int) -> None:
        """
        Pass *count* more bytes from the server, then cut: in the middle of a frame, unless one happens to end there.

        Waits until that has happened.
        """
        self._passes = count
        self._cut.clear()
        await self._cut.wait()

    def refuse(self) -> None:
        """Cut, and reset every new connection, as a host without a server does."""
        self._is_accepting = False
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._is_accepting = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._is_accepting:
            self.refused += 1
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        except OSError:
            writer.transport.abort()
            return
        finally:
            self._tasks.discard(task)
        self._tasks.add(task)
        self._writers |= {writer, far_writer}
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._pump(reader, far_writer, from_server=False),
                self._pump(far_reader, writer, from_server=True),
            )
        self._tasks.discard(task)
        self._writers -= {writer, far_writer}

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                self.held_bytes += len(data)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                self.held_bytes -= len(data)
                if writer in self._forgotten:
                    continue
                if from_server and self._passes is not None and self._passes <= len(data):
                    writer.write(data[: self._passes])
                    self.cut()
                    return
                if from_server and self._passes is not None:
                    self._passes -= len(data)
                writer.write(data)
                await writer.drain()
                if from_server and self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
        writer.close()
