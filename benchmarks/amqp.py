"""
As little AMQP 0-9-1 as a load generator needs, over a blocking socket: no driver should be what is measured.

Messages are encoded before they are sent, publishing one costs a copy, and no answer is awaited but the confirm of the last. For the
loopback interface and a broker that means well: there are no heartbeats, no TLS and no recovery.
"""

from __future__ import annotations

import select
import socket
import struct
import uuid
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

from pamqp import commands, frame, header
from pamqp.base import Frame
from yarl import URL

BODY_FRAME: Final = 3
FRAME: Final = struct.Struct(">BHI")
"""Type, channel, size of the payload; the payload and one closing byte follow."""

READ_BYTES: Final = 1 << 18

_CHANNEL: Final = 1
_FRAME_MAX: Final = 131_072
_TIMEOUT_S: Final = 60.0
_UNCONFIRMED: Final = 20_000
_MESSAGES_A_WRITE: Final = 500
_CONTENT: Final = struct.Struct(">BHIHHQ")
_ACK: Final = struct.pack(">HH", 60, 80)
_ACKNOWLEDGED: Final = struct.Struct(">QB")


class AmqpError(Exception):
    """The broker said no, or went away. The text is its own."""


class Encoder:
    """
    Turns bodies into the bytes of a publish: persistent, and with the properties that ``configcache.Publisher`` sets.

    Only the body and the message id differ between two messages, so all else is encoded once.
    """

    def __init__(self, exchange: str, routing_key: str, properties: commands.Basic.Properties) -> None:
        publish = commands.Basic.Publish(exchange=exchange, routing_key=routing_key)
        self._method = frame.marshal(publish, _CHANNEL)
        properties.message_id = placeholder = "?" * 32
        content = header.ContentHeader(body_size=0, properties=properties)
        encoded = frame.marshal(content, _CHANNEL)[_CONTENT.size : -1]
        self._before_id, self._after_id = encoded.split(placeholder.encode())
        self._header_bytes = len(encoded) + _CONTENT.size - FRAME.size

    def encode(self, body: bytes) -> bytes:
        """One message, with an id of its own."""
        size = len(body)
        return b"".join(
            (
                self._method,
                _CONTENT.pack(2, _CHANNEL, self._header_bytes, 60, 0, size),
                self._before_id,
                uuid.uuid4().hex.encode(),
                self._after_id,
                b"\xce",
                FRAME.pack(BODY_FRAME, _CHANNEL, size),
                body,
                b"\xce",
            )
        )


class Channel:
    """One connection with one channel. A context manager."""

    def __init__(self, url: str) -> None:
        self._url = URL(url)
        self._buffer = bytearray()
        self._published = self._confirmed = 0
        self._confirmed_singly: set[int] = set()

    def __enter__(self) -> Self:
        url = self._url
        self.socket = socket.create_connection((url.host or "", url.port or 5672), timeout=_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        start = self._expect(commands.Connection.Start)
        self.server_properties = dict(start.server_properties)
        secret = f"\0{url.user or 'guest'}\0{url.password or 'guest'}"
        self.send(commands.Connection.StartOk({}, "PLAIN", secret, "en_US"), channel=0)
        self._expect(commands.Connection.Tune)
        self.send(commands.Connection.TuneOk(channel_max=1, frame_max=_FRAME_MAX, heartbeat=0), channel=0)
        self.send(commands.Connection.Open(virtual_host=url.path.removeprefix("/") or "/"), channel=0)
        self._expect(commands.Connection.OpenOk)
        self.call(commands.Channel.Open(), commands.Channel.OpenOk)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def take_unread(self) -> bytes:
        """Take over what has been read beyond the last answer."""
        unread = bytes(self._buffer)
        self._buffer.clear()
        return unread

    def send(self, method: Frame, *, channel: int = _CHANNEL) -> None:
        """Send *method*."""
        self.socket.sendall(frame.marshal(method, channel))

    def call(self, request: Frame, answer: type[Frame]) -> Frame:
        """Send *request* and wait for *answer*."""
        self.send(request)
        return self._expect(answer)

    def declare(self, queue: str, arguments: Mapping[str, Any]) -> None:
        """Declare a durable queue."""
        request = commands.Queue.Declare(queue=queue, durable=True, arguments=dict(arguments))
        self.call(request, commands.Queue.DeclareOk)

    def confirm(self) -> None:
        """Ask for publisher confirms from here on."""
        self.call(commands.Confirm.Select(), commands.Confirm.SelectOk)

    def publish(self, messages: Iterable[bytes]) -> None:
        """Publish encoded *messages*; when this returns, the broker has confirmed every one. Needs :meth:`confirm`."""
        for some in _chunks(messages, _MESSAGES_A_WRITE):
            self.socket.sendall(b"".join(some))
            self._published += len(some)
            self.take_confirms(most_missing=_UNCONFIRMED)
        self.take_confirms(most_missing=0)

    def publish_now(self, messages: list[bytes]) -> None:
        """Publish encoded *messages* without waiting for an answer."""
        self.socket.sendall(b"".join(messages))
        self._published += len(messages)
        while select.select([self.socket], [], [], 0)[0]:
            self._read_confirms()

    def take_confirms(self, *, most_missing: int) -> None:
        """Wait until at most so many publishes have no confirm yet."""
        while self._published - self._confirmed - len(self._confirmed_singly) > most_missing:
            self._read_confirms()

    def _read_confirms(self) -> None:
        payload = self._next_payload()
        if not payload.startswith(_ACK):
            raise _refusal(payload)
        self._note_confirm(*_ACKNOWLEDGED.unpack_from(payload, 4))

    def _note_confirm(self, tag: int, multiple: int) -> None:
        singly = self._confirmed_singly
        if multiple:
            self._confirmed = tag
            singly -= {single for single in singly if single <= tag}
        else:
            singly.add(tag)
        while self._confirmed + 1 in singly:
            self._confirmed += 1
            singly.discard(self._confirmed)

    def _expect(self, wanted: type[Frame]) -> Frame:
        payload = self._next_payload()
        method = _method(payload)
        if not isinstance(method, wanted):
            raise _refusal(payload)
        return method

    def _next_payload(self) -> bytes:
        """The payload of the next frame, waited for."""
        buffer = self._buffer
        while len(buffer) < FRAME.size or len(buffer) < self._next_end():
            data = self.socket.recv(READ_BYTES)
            if not data:
                raise AmqpError("the broker closed the connection")
            buffer += data
        end = self._next_end()
        payload = bytes(buffer[FRAME.size : end - 1])
        del buffer[:end]
        return payload

    def _next_end(self) -> int:
        return FRAME.size + FRAME.unpack_from(self._buffer)[2] + 1


def _method(payload: bytes) -> Frame:
    _, _, method = frame.unmarshal(FRAME.pack(1, 0, len(payload)) + payload + b"\xce")
    return method


def _refusal(payload: bytes) -> AmqpError:
    method = _method(payload)
    return AmqpError(getattr(method, "reply_text", None) or f"an unexpected {method!r}")


def _chunks(messages: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    for message in messages:
        chunk.append(message)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
