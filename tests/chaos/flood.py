"""
Publish a great many messages fast, or any bytes at all as their properties: AMQP frames, written by hand.

The driver would take minutes for a million messages, and encodes nothing that is wrong.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from pamqp import commands, frame, header
from pamqp.exceptions import UnmarshalingException
from yarl import URL

from configcache.topology import COMMAND_EXCHANGE, COMMAND_ROUTING_KEY

PLAIN_PROPERTIES = b"\x10\x00\x02"
"""Persistent, and nothing else."""

BASE_BYTES = 90_000_000
"""What a worker has in memory besides what it holds for the dead letters, generously."""

_FRAME_MAX = 131_072
_UNCONFIRMED = 20_000
_WRITE_BYTES = 262_144
_TIMEOUT_S = 60.0
_PUBLISH = frame.marshal(
    commands.Basic.Publish(exchange=COMMAND_EXCHANGE, routing_key=COMMAND_ROUTING_KEY), 1
)
_FRAME = struct.Struct(">BHI")
_HEADER = struct.Struct(">HHQ")


class Refused(Exception):
    """The broker closed the connection."""


class Flood:
    """One connection that publishes to the commands' queue, with confirms. A context manager; blocks its thread."""

    def __init__(self, url: str) -> None:
        self._url = URL(url)
        self._received = b""
        self._published = self._confirmed = 0

    def __enter__(self) -> Self:
        user, password = self._url.user or "guest", self._url.password or "guest"
        assert self._url.host is not None
        self._socket = socket.create_connection((self._url.host, self._url.port or 5672), timeout=_TIMEOUT_S)
        self._socket.sendall(header.ProtocolHeader().marshal())
        self._expect(commands.Connection.Start)
        self._send(commands.Connection.StartOk(response=f"\0{user}\0{password}", mechanism="PLAIN"), 0)
        self._expect(commands.Connection.Tune)
        self._send(commands.Connection.TuneOk(channel_max=1, frame_max=_FRAME_MAX, heartbeat=0), 0)
        self._send(commands.Connection.Open(virtual_host=self._url.path.removeprefix("/") or "/"), 0)
        self._expect(commands.Connection.OpenOk)
        self._send(commands.Channel.Open(), 1)
        self._expect(commands.Channel.OpenOk)
        self._send(commands.Confirm.Select(), 1)
        self._expect(commands.Confirm.SelectOk)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def publish(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """
        Publish *messages*, bodies and encoded properties, and wait until all are confirmed.

        Raises:
            Refused: The broker closed the connection; how many it took before is not known.
        """
        waiting = bytearray()
        for body, properties in messages:
            waiting += encode(body, properties)
            self._published += 1
            if len(waiting) >= _WRITE_BYTES:
                self._write(waiting)
                waiting.clear()
                self._confirm(down_to=_UNCONFIRMED)
        self._write(waiting)
        self._confirm(down_to=0)

    def _write(self, data: bytes | bytearray) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Refused(str(error)) from error

    def _confirm(self, *, down_to: int) -> None:
        while self._published - self._confirmed > down_to or select.select([self._socket], [], [], 0)[0]:
            for command in self._read():
                match command:
                    case commands.Basic.Ack(delivery_tag=tag):
                        self._confirmed = max(self._confirmed, tag)
                    case commands.Basic.Nack():
                        raise Refused("nack")
                    case commands.Connection.Close(reply_text=text) | commands.Channel.Close(reply_text=text):
                        raise Refused(str(text))

    def _send(self, command: frame.base.Frame, channel: int) -> None:
        self._write(frame.marshal(command, channel))

    def _expect(self, kind: type[frame.base.Frame]) -> None:
        while True:
            for command in self._read():
                if isinstance(command, kind):
                    return

    def _read(self) -> Iterator[object]:
        try:
            data = self._socket.recv(_WRITE_BYTES)
        except OSError as error:
            raise Refused(str(error)) from error
        if not data:
            raise Refused("the connection was closed")
        self._received += data
        while len(self._received) >= _FRAME.size:
            _, _, size = _FRAME.unpack_from(self._received)
            if len(self._received) < _FRAME.size + size + 1:
                return
            try:
                consumed, _, command = frame.unmarshal(self._received)
            except UnmarshalingException as error:  # a broker that says goodbye may quote what it was sent
                raise Refused(str(error)) from error
            self._received = self._received[consumed:]
            yield command


def encode(body: bytes, properties: bytes = PLAIN_PROPERTIES) -> bytes:
    """The frames of one publish."""
    content_header = _HEADER.pack(60, 0, len(body)) + properties
    pieces = [_PUBLISH, _FRAME.pack(2, 1, len(content_header)), content_header, b"\xce"]
    for start in range(0, len(body), _FRAME_MAX - 8):
        piece = body[start : start + _FRAME_MAX - 8]
        pieces += [_FRAME.pack(3, 1, len(piece)), piece, b"\xce"]
    return b"".join(pieces)


def flood(url: str, messages: Iterable[tuple[bytes, bytes]]) -> None:
    """Publish *messages*, pairs of body and properties, over a line of their own."""
    with Flood(url) as line:
        line.publish(messages)
