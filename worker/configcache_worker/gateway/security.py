"""What a request may present, as OpenAPI describes it. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from configcache_worker.gateway.schemes import APP_TOKEN_HEADER, XSRF_HEADER, Accepted, Scheme


class Security(NamedTuple):
    """Two parts of an OpenAPI document."""

    schemes: dict[str, dict[str, Any]]
    """For ``components.securitySchemes``."""
    requirements: list[dict[str, list[str]]]
    """For ``security``: one of these is needed, each with all that it names."""


def security(accepted: Accepted) -> Security:
    """The description of what is *accepted*."""
    described = {
        Scheme.BEARER: {"bearer": _BEARER},
        Scheme.BASIC: {"basic": _BASIC},
        Scheme.TICKET: {"ticket": _TICKET} | ({"appToken": _APP_TOKEN} if accepted.app_token else {}),
        Scheme.SESSION: {"session": _session(accepted.session_cookie), "xsrfToken": _XSRF_TOKEN},
    }
    offered = [parts for scheme, parts in described.items() if scheme in accepted.schemes]
    return Security(
        schemes={name: part for parts in offered for name, part in parts.items()},
        requirements=[{name: [] for name in parts} for parts in offered],
    )


_BEARER: Final = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
_BASIC: Final = {"type": "http", "scheme": "basic", "description": "User and password, in UTF-8."}
_TICKET: Final = {
    "type": "apiKey",
    "in": "header",
    "name": "Authorization",
    "description": "The word SoTicket, a space, and the ticket as it is.",
}
_APP_TOKEN: Final = {
    "type": "apiKey",
    "in": "header",
    "name": APP_TOKEN_HEADER,
    "description": "The token of the application that the ticket was given to.",
}
_XSRF_TOKEN: Final = {
    "type": "apiKey",
    "in": "header",
    "name": XSRF_HEADER,
    "description": "What the session's cookie XSRF-TOKEN holds.",
}


def _session(cookie: str) -> dict[str, Any]:
    return {
        "type": "apiKey",
        "in": "cookie",
        "name": cookie,
        "description": "The session of a browser. Counts where there is no Authorization header.",
    }
