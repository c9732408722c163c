"""
A tiny HTTP server for probes and metrics: ``/livez`` (the event loop turns: it is the loop that answers), ``/readyz`` (work
is being done, or why not) and ``/metrics``.

GET only, one request per connection, bounded in size and time. What readiness means and what is measured is the caller's to
say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

_MAX_REQUEST_BYTES: Final = 8_192
_REQUEST_TIMEOUT_S: Final = 5.0
_READINESS_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Readiness:
    """Whether work is being done, and if not, why: the part that is missing and a sentence about it."""

    ready: bool
    reasons: Mapping[str, str] = field(default_factory=dict)


class StartRefused(Exception):
    """The process can't do its work as things are set up, and waiting would not help. The text is one line."""


class Exposition(NamedTuple):
    """Metrics as they are sent."""

    content_type: str
    body: bytes


class HealthServer:
    """
    Serves probes and metrics on *host* and *port* from :meth:`start` to :meth:`stop`.

    Args:
        host: Address to listen on.
        port: 0 takes any free port; :attr:`port` tells which.
        readiness: Asked on each ``/readyz``. One that does not answer in five seconds counts as not ready.
        metrics: Asked on each ``/metrics``, with what the request says in ``Accept``; not served if there is none.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        readiness: Callable[[], Awaitable[Readiness]],
        metrics: Callable[[str], Awaitable[Exposition]] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._readiness = readiness
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        state = "serving" if self._server else "stopped"
        return f"<HealthServer {self._host}:{self.port} {state}>"

    @property
    def port(self) -> int:
        """The port served, while serving; else the one asked for."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server else self._port

    async def start(self) -> None:
        """
        Begin to serve.

        Raises:
            StartRefused: Address or port can't be had. The text names both.
        """
        try:
            self._server = await asyncio.start_server(
                self._converse, self._host, self._port, limit=_MAX_REQUEST_BYTES
            )
        except OSError as error:
            raise StartRefused(
                f"can't serve the probes: {error}; "
                "give each process on a host a telemetry.port of its own, or 0 for none"
            ) from error

    async def stop(self) -> None:
        """Stop serving and drop open connections. Safe to repeat, and without a start."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        await server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            request = await _read_request(reader)
            if request is not None:
                writer.write(_encode(await self._answer(request)))
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    await writer.drain()
        except (OSError, TimeoutError):
            pass  # The prober went away: there is nobody left to tell.
        finally:
            self._conversations.discard(task)
            writer.close()

    async def _answer(self, request: bytes) -> _Answer:
        head, *fields = request.split(b"\r\n")
        method, _, rest = head.partition(b" ")
        target, _, version = rest.rpartition(b" ")
        if not target.startswith(b"/") or not version.startswith(b"HTTP/1."):
            return _json(HTTPStatus.BAD_REQUEST, {"error": "not an HTTP/1 request of at most 8 KiB"})
        path = target.partition(b"?")[0]
        if path not in {b"/livez", b"/readyz", b"/metrics"} or (path == b"/metrics" and not self._metrics):
            return _json(HTTPStatus.NOT_FOUND, {"error": f"there are {self._served()}"})
        if method != b"GET":
            return _json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "GET only"})
        if path == b"/metrics" and self._metrics:
            return _Answer(HTTPStatus.OK, *await self._metrics(_accepted(fields)))
        return await (self._ready() if path == b"/readyz" else self._live())

    def _served(self) -> str:
        return "/livez, /readyz and /metrics" if self._metrics else "/livez and /readyz"

    async def _live(self) -> _Answer:
        return _json(HTTPStatus.OK, {"live": True})

    async def _ready(self) -> _Answer:
        try:
            async with asyncio.timeout(_READINESS_TIMEOUT_S):
                readiness = await self._readiness()
        except TimeoutError:
            reasons: dict[str, str] = {}
            reasons["readiness"] = "not known within five seconds"
            readiness = Readiness(ready=False, reasons=reasons)
        status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, {"ready": readiness.ready, "reasons": dict(readiness.reasons)})


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


def _json(status: HTTPStatus, content: Mapping[str, object]) -> _Answer:
    return _Answer(status, "application/json", json.dumps(content, ensure_ascii=False).encode())


def _accepted(fields: Sequence[bytes]) -> str:
    """What the header ``Accept`` says among *fields*; nothing if it is not there."""
    named = (field.partition(b":") for field in fields)
    return ",".join(value.decode("latin-1").strip() for name, _, value in named if name.lower() == b"accept")


async def _read_request(reader: asyncio.StreamReader) -> bytes | None:
    """The request up to its blank line; nothing when none came in time; empty bytes when it is too long."""
    try:
        async with asyncio.timeout(_REQUEST_TIMEOUT_S):
            return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return b""
    except (asyncio.IncompleteReadError, TimeoutError):
        return None


def _encode(answer: _Answer) -> bytes:
    head = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        head.append("Allow: GET")
    return "\r\n".join([*head, "", ""]).encode() + answer.body
