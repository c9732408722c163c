"""
The gateway as an ASGI application: what is served where, in what shape failures are told, and what is known of each request.

One layer and no more, since every request passes it: Starlette's requests and responses, but none of its middleware.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from structlog.contextvars import bound_contextvars

from configcache_worker.gateway.body import IncomingBody
from configcache_worker.gateway.errors import (
    ILLEGAL_OPERATION,
    NOT_FOUND,
    NOT_STORED,
    Unserved,
    internal_error,
    stopping,
    too_busy,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = structlog.stdlib.get_logger()

CALL_PATH: Final = "/api/v1/Agents/Configuration/ClearConfigurationCache"
OPENAPI_PATH: Final = "/api/v1/openapi.json"

CLIENT_GONE: Final = 499
"""Counted for a client that did not wait for its answer. Nobody sees it on the wire."""

Call = Callable[[Request, IncomingBody], Awaitable[Response]]
Answered = Callable[[int, float], None]


class GatewayApplication:
    """
    Serves the call and its OpenAPI document.

    Args:
        call: Serves the call itself.
        openapi: The document.
        answered: Told of each request that was answered: the status, and the seconds it took.
        root_path: Prefix of the paths, which may have been taken off by a proxy.
        max_concurrency: Most calls at a time.
        max_body_bytes: Largest body.
        receive_timeout_s: Longest time for a body to arrive.
    """

    def __init__(
        self,
        *,
        call: Call,
        openapi: Mapping[str, object],
        answered: Answered,
        root_path: str,
        max_concurrency: int,
        max_body_bytes: int,
        receive_timeout_s: float,
    ) -> None:
        self.in_progress = 0
        """Calls that are being served."""
        self.is_stopping = False
        """Whether each answer shall be the last of its connection."""
        self._call = call
        self._openapi = json.dumps(openapi, separators=(",", ":")).encode()
        self._answered = answered
        self._root_path = root_path.lower()
        self._max_concurrency = max_concurrency
        self._max_body_bytes = max_body_bytes
        self._receive_timeout_s = receive_timeout_s
        self._routes: Mapping[str, tuple[tuple[str, ...], Call]] = {
            CALL_PATH.lower(): (("POST",), self._clear),
            OPENAPI_PATH.lower(): (("GET", "HEAD"), self._describe),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI has it."""
        begun = time.perf_counter()
        request = Request(scope, receive)
        request_id = _request_id(request.headers.get("x-request-id"))
        with bound_contextvars(request_id=request_id):
            response, problem = await self._respond(request)
            status = CLIENT_GONE
            if response is not None:
                response.headers["X-Request-ID"] = request_id
                status = response.status_code
                await response(scope, receive, send)
            duration_s = time.perf_counter() - begun
            self._answered(status, duration_s)
            _log(request.method, status, duration_s, problem)

    async def _respond(self, request: Request) -> tuple[Response | None, Unserved | None]:
        """The answer to *request*, None if the client has gone; and why it is not served, if it is not."""
        body = IncomingBody(request, limit=self._max_body_bytes, timeout_s=self._receive_timeout_s)
        response: Response | None = None
        problem: Unserved | None = None
        try:
            response = await self._route(request)(request, body)
        except ClientDisconnect:
            pass
        except Unserved as unserved:
            problem = unserved
        except asyncio.CancelledError:  # by the server alone, at the end of its patience with a drain
            problem = stopping()
        except Exception:  # a fault of this program: the client gets an answer, the log the traceback
            log.exception("gateway.failed", consequence="the client was answered 500")
            problem = internal_error()
        if problem is not None:
            response = problem.response(request.headers.get("accept", ""))
        if response is not None and (body.ends_connection or self.is_stopping):
            response.headers["Connection"] = "close"
        return response, problem

    def _route(self, request: Request) -> Call:
        methods, serve = self._routes.get(self._path(request), ((), None))
        if serve is None:
            raise Unserved(404, NOT_FOUND, f"there is nothing but {CALL_PATH} and {OPENAPI_PATH}")
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Unserved(
                405, ILLEGAL_OPERATION, f"the method must be {' or '.join(methods)}", (("Allow", allowed),)
            )
        return serve

    def _path(self, request: Request) -> str:
        # As the classic API's server takes it: in any case, with a slash at its end or without.
        path: str = request.scope["path"].lower()
        if self._root_path and path.startswith(self._root_path + "/"):
            path = path.removeprefix(self._root_path)
        return path.removesuffix("/")

    async def _clear(self, request: Request, body: IncomingBody) -> Response:
        if self.in_progress >= self._max_concurrency:
            raise too_busy(self._max_concurrency)
        self.in_progress += 1
        try:
            return await self._call(request, body)
        finally:
            self.in_progress -= 1

    async def _describe(self, request: Request, body: IncomingBody) -> Response:
        return Response(self._openapi, media_type="application/json", headers=NOT_STORED)


def _request_id(given: str | None) -> str:
    """The client's own id of the request where it is harmless, else a new one."""
    return given if given is not None and _HARMLESS_ID.fullmatch(given) else os.urandom(16).hex()


_HARMLESS_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def _log(method: str, status: int, duration_s: float, problem: Unserved | None) -> None:
    """
    A line for each request that was not served, and with the level debug for every one: it would be a quarter of all work.

    A client's fault is told to the client; an operator needs its kind alone.
    """
    fields = {"method": method, "status": status, "duration_s": round(duration_s, 6)}
    if problem is None:
        log.debug("gateway.answered", **fields)
    elif status < HTTPStatus.INTERNAL_SERVER_ERROR:
        log.info("gateway.refused", error_type=problem.error_type, **fields)
    else:
        log.warning(
            "gateway.unserved",
            error_type=problem.error_type,
            error=problem.message,
            consequence="the client was told to try again",
            **fields,
        )
