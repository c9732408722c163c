"""
The port between the gateway's endpoint and whatever knows the callers.

An authenticator tells who calls, or why the request is not served. What a caller may do with that is the endpoint's to
decide, and how an answer looks on the wire is, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Associate:
    """Who calls."""

    id: int
    """From 1 to 2^63-1."""
    may_clear_all: bool
    """Whether this one may clear the rows of every associate."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served: an answer, not an exception."""

    status: int
    """401, 403, 429 or 503."""
    error_type: str
    """A stable word for programs, such as ``SoSessionException``."""
    message: str
    """A sentence for people, without anything secret."""
    challenges: tuple[str, ...] = ()
    """The values of ``WWW-Authenticate``, for 401."""
    retry_after_s: int | None = None


class Authenticator(Protocol):
    """Knows the callers."""

    async def authenticate(self, request: Request) -> Associate | Refusal:
        """
        Tell who sent *request*. Only its headers, cookies and the client's address may be read, never its body.

        Whatever goes wrong is a refusal; nothing is raised.
        """
        ...
