"""
Why a request is not served, and how that looks on the wire.

Every such answer has the classic API's four properties: JSON, or XML for who prefers it. The text never repeats what the
client has sent, except a property's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

from starlette.responses import Response

from configcache.errors import PublishError
from configcache_worker.gateway.authentication import Refusal

SOURCE: Final = "configcache-gateway"

INVALID_ARGUMENT: Final = "SoInvalidArgumentException"
NO_RIGHT: Final = "SoSentryException"
NOT_FOUND: Final = "SoNotFoundException"
ILLEGAL_OPERATION: Final = "SoIllegalOperationException"
TOO_BUSY: Final = "TooBusy"
STOPPING: Final = "Stopping"
INTERNAL_ERROR: Final = "InternalError"

NOT_STORED: Final = {"Cache-Control": "no-store"}
"""The header of every answer that a cache might keep: a 204 to a POST is none."""

_BUSY_RETRY_AFTER_S: Final = 1
_BROKER_RETRY_AFTER_S: Final = 5


class Unserved(Exception):
    """
    The request is not served.

    Attributes:
        status: Of the answer.
        error_type: A stable word for programs; that of the classic API where it has one.
        message: What is wrong and what would be right.
        headers: That go with the answer.
    """

    def __init__(
        self, status: int, error_type: str, message: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(status, error_type, message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.headers = headers

    def __str__(self) -> str:
        return self.message

    def response(self, accept: str) -> Response:
        """The answer, as the request's header *accept* wishes it."""
        shape = {
            "Error": True,
            "ErrorType": self.error_type,
            "ErrorMessage": self.message,
            "ErrorSource": SOURCE,
        }
        if prefers_xml(accept):
            response = Response(_xml(shape), self.status, NOT_STORED, "application/xml")
        else:
            response = Response(json.dumps(shape), self.status, NOT_STORED, "application/json")
        for name, value in self.headers:
            response.headers.append(name, value)
        return response


def named(name: str) -> str:
    """A property for a message: by its name, unless that is not one a person would give."""
    return f"property {name}" if _PLAIN_NAME.fullmatch(name) else "property of a strange name"


_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def bad_request(message: str) -> Unserved:
    """400: the body is not what the call takes."""
    return Unserved(400, INVALID_ARGUMENT, message)


def refused(refusal: Refusal) -> Unserved:
    """The answer to a caller who is not let in."""
    headers = [("WWW-Authenticate", challenge) for challenge in refusal.challenges]
    if refusal.retry_after_s is not None:
        headers.append(("Retry-After", str(refusal.retry_after_s)))
    return Unserved(refusal.status, refusal.error_type, refusal.message, tuple(headers))


def not_queued(error: PublishError) -> Unserved:
    """503: the command is not known to be in the queue. Its error names are those of the publisher."""
    return Unserved(
        503,
        type(error).__name__,
        f"the command is not in the queue as far as is known, send it again: {error}",
        (("Retry-After", str(_BROKER_RETRY_AFTER_S)),),
    )


def stopping() -> Unserved:
    """503: the gateway stops, and the request took too long for that."""
    return Unserved(
        503,
        STOPPING,
        "the gateway stops; the command is not in the queue as far as is known, send it again",
        (("Retry-After", str(_BUSY_RETRY_AFTER_S)),),
    )


def internal_error() -> Unserved:
    """500: a fault of this program."""
    return Unserved(
        500, INTERNAL_ERROR, "a fault of the gateway; its log has more under the id of this request"
    )


def too_busy(limit: int) -> Unserved:
    """503: as many requests as allowed are being served."""
    return Unserved(
        503,
        TOO_BUSY,
        f"{limit} requests are being served, which is the limit",
        (("Retry-After", str(_BUSY_RETRY_AFTER_S)),),
    )


def prefers_xml(accept: str) -> bool:
    """Whether *accept* ranks XML above JSON. Who does not say gets JSON."""
    ranks = {"json": 0.0, "xml": 0.0}
    for entry in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in entry.split(";"))
        kind = media_type.rpartition("/")[2]
        if media_type in _OFFERED:
            ranks[kind] = max(ranks[kind], _quality(parameters))
    return ranks["xml"] > ranks["json"]


_OFFERED: Final = frozenset({"application/json", "text/json", "application/xml", "text/xml"})


def _quality(parameters: list[str]) -> float:
    weights = [value for name, _, value in (part.partition("=") for part in parameters) if name == "q"]
    try:
        return float(weights[0]) if weights else 1.0
    except ValueError:
        return 0.0


def _xml(shape: Mapping[str, object]) -> str:
    elements = "".join(
        f"<{name}>{'true' if value is True else escape(str(value))}</{name}>" for name, value in shape.items()
    )
    return f'<?xml version="1.0" encoding="utf-8"?><ErrorResponse>{elements}</ErrorResponse>'
