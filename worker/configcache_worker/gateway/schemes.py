"""
What a request presents about its sender. Pure: nothing is verified here.

An ``Authorization`` header counts before a session's cookie. What can't be read, what comes twice, and a scheme that is
not accepted are :class:`Unusable`, with a sentence that says what would be right and repeats nothing of what came.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote

if TYPE_CHECKING:
    from starlette.datastructures import Headers

XSRF_COOKIE: Final = "XSRF-TOKEN"
XSRF_HEADER: Final = "X-XSRF-TOKEN"
APP_TOKEN_HEADER: Final = "SO-AppToken"

_MAX_HEADER: Final = 16_384
"""In characters. A token with hundreds of groups in it fits."""
_MAX_NAME: Final = 254
_VISIBLE: Final = re.compile(r"[!-~]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Scheme(enum.StrEnum):
    """A way to say who one is."""

    BEARER = "Bearer"
    BASIC = "Basic"
    TICKET = "SoTicket"
    SESSION = "Session"
    """A cookie, and no Authorization header."""


@dataclass(frozen=True, slots=True)
class Password:
    """``Basic``: a user's name and password. Neither is empty."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ticket:
    """``SoTicket``: a ticket, and online the token of the application it was given to."""

    ticket: str = field(repr=False)
    app_token: str | None = field(repr=False)
    """None: none is needed."""


@dataclass(frozen=True, slots=True)
class Session:
    """The session of a browser, and the token that shows that its own page has sent the request."""

    id: str = field(repr=False)
    xsrf_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """``Bearer``: a JWT."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unusable:
    """Nothing that could be verified."""

    message: str
    """For the sender."""


Presented: TypeAlias = Password | Ticket | Session | Token | Unusable


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is accepted here."""

    schemes: frozenset[Scheme]
    app_token: bool
    """Whether a ticket comes with the token of its application."""
    session_cookie: str
    """The name of the cookie that holds a session's id."""


def read(headers: Headers, cookies: Mapping[str, str], accepted: Accepted) -> Presented:
    """Find out what a request with *headers* and *cookies* presents."""
    values = headers.getlist("Authorization")
    if not values:
        return _session(headers, cookies, accepted)
    if len(values) > 1:
        return Unusable("there must be a single Authorization header")
    if len(values[0]) > _MAX_HEADER:
        return Unusable(f"the Authorization header must have at most {_MAX_HEADER} characters")
    name, _, rest = values[0].strip().partition(" ")
    scheme = _BY_NAME.get(name.lower())
    if scheme not in accepted.schemes or scheme not in _READERS:
        return Unusable(f"the Authorization header must begin with {_either(accepted)}")
    return _READERS[scheme](rest.strip(), headers, accepted)


def _session(headers: Headers, cookies: Mapping[str, str], accepted: Accepted) -> Session | Unusable:
    session_id = cookies.get(accepted.session_cookie, "")
    if Scheme.SESSION not in accepted.schemes or not session_id:
        return Unusable("an Authorization header is needed" + _or_session(accepted))
    cookie, sent = cookies.get(XSRF_COOKIE, ""), headers.getlist(XSRF_HEADER)
    if len(sent) != 1 or not sent[0]:
        return Unusable(f"without an Authorization header, a session needs a single {XSRF_HEADER}")
    # A script gets the cookie as it is, or with its percent-encoding undone.
    if not any([_equal(sent[0], cookie), _equal(sent[0], unquote(cookie))]):
        return Unusable(f"{XSRF_HEADER} must be what the cookie {XSRF_COOKIE} holds")
    if not (_VISIBLE.fullmatch(session_id) and _VISIBLE.fullmatch(sent[0])):
        return Unusable(f"the session and {XSRF_HEADER} must consist of visible ASCII characters")
    return Session(session_id, sent[0])


def _basic(encoded: str, headers: Headers, _accepted: Accepted) -> Password | Unusable:
    # A browser adds the password it remembers to what any page sends, such as another site's form.
    if headers.get("Sec-Fetch-Site") == "cross-site":
        return Unusable("a page of another site must not use the password that the browser remembers")
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return Unusable("behind Basic there must be the base64 of user:password in UTF-8")
    name, colon, password = text.partition(":")
    if not (colon and name and password):
        return Unusable("behind Basic there must be a user and a password, with a colon between them")
    if len(name) > _MAX_NAME or _CONTROL.search(text):
        return Unusable(
            f"behind Basic there must be no control characters, and a user of at most {_MAX_NAME} characters"
        )
    return Password(name, password)


def _ticket(ticket: str, headers: Headers, accepted: Accepted) -> Ticket | Unusable:
    if not _VISIBLE.fullmatch(ticket):
        return Unusable("behind SoTicket there must be the ticket as it is, without white space")
    if not accepted.app_token:
        return Ticket(ticket, None)
    app_tokens = headers.getlist(APP_TOKEN_HEADER)
    if len(app_tokens) != 1 or not _VISIBLE.fullmatch(app_tokens[0].strip()):
        return Unusable(f"with a ticket, the application's token is needed: a single {APP_TOKEN_HEADER}")
    return Ticket(ticket, app_tokens[0].strip())


def _token(token: str, _headers: Headers, _accepted: Accepted) -> Token | Unusable:
    if not _VISIBLE.fullmatch(token):
        return Unusable("behind Bearer there must be a token, without white space")
    return Token(token)


_READERS: Final[Mapping[Scheme, Callable[[str, Headers, Accepted], Presented]]] = {
    Scheme.BEARER: _token,
    Scheme.BASIC: _basic,
    Scheme.TICKET: _ticket,
}
_BY_NAME: Final = {scheme.lower(): scheme for scheme in _READERS}


def _equal(one: str, other: str) -> bool:
    """Compare in a time that depends on the lengths alone."""
    return hmac.compare_digest(one.encode(), other.encode())


def _either(accepted: Accepted) -> str:
    names = [scheme for scheme in _READERS if scheme in accepted.schemes]
    return " or ".join(names) if names else "nothing: only sessions are accepted, which come without one"


def _or_session(accepted: Accepted) -> str:
    return (
        f", or a session: the cookie {accepted.session_cookie}" if Scheme.SESSION in accepted.schemes else ""
    )
