"""What a 401 asks for: the values of ``WWW-Authenticate`` (RFC 9110, RFC 6750 and RFC 7617). Pure."""

from __future__ import annotations

from typing import Final

from configcache_worker.gateway.schemes import Accepted, Scheme

_REALM: Final = 'realm="configcache"'


def challenges(accepted: Accepted, *, bad_token: bool = False, with_session: bool = False) -> tuple[str, ...]:
    """
    One value for each scheme that is accepted.

    Args:
        accepted: What a request may present.
        bad_token: It presented a token, and that is refused.
        with_session: It came with a session, so from a page. A browser that is asked for Basic would open a window and
            ask its user for a password, above a page whose session has merely ended.
    """
    values = {
        Scheme.BEARER: f'Bearer {_REALM}, error="invalid_token"' if bad_token else f"Bearer {_REALM}",
        Scheme.BASIC: f'Basic {_REALM}, charset="UTF-8"',
        Scheme.TICKET: f"SoTicket {_REALM}",
    }
    asked = tuple(
        value
        for scheme, value in values.items()
        if scheme in accepted.schemes and not (with_session and scheme is Scheme.BASIC)
    )
    return asked or (f"Session {_REALM}",)  # there must be one
