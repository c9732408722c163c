"""
The authenticator: from what a request presents to the associate who sent it, or to a refusal.

The order is that of cost and of secrecy: what can't be read is refused first, then who must wait; then what was verified a
moment ago; and only then is somebody looked up, one attempt at a time for each name and client. A wrong secret and an
unknown name get the same answer. Secrets are never logged; a name is, if it is somebody's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from weakref import WeakValueDictionary

import structlog

from configcache_worker.gateway.attempts import Attempts, client_of
from configcache_worker.gateway.authentication import Associate, Refusal
from configcache_worker.gateway.challenges import challenges
from configcache_worker.gateway.credentials import Credential, CredentialVerifier
from configcache_worker.gateway.keys import KeysUnavailable
from configcache_worker.gateway.passwords import Busy
from configcache_worker.gateway.schemes import (
    Accepted,
    Password,
    Scheme,
    Session,
    Ticket,
    Token,
    Unusable,
    read,
)
from configcache_worker.gateway.tokens import BadToken, TokenJudge
from configcache_worker.gateway.verified import Verified
from configcache_worker.postgres.credentials import CredentialsUnavailable

if TYPE_CHECKING:
    from starlette.requests import Request

log = structlog.stdlib.get_logger()

_WRONG: Final = {
    Scheme.BASIC: "the user or the password is wrong",
    Scheme.TICKET: "the ticket, or the application's token, is not valid",
    Scheme.SESSION: "the session is not valid, or its X-XSRF-TOKEN",
}


class Callers:
    """
    Knows the callers: the port's :class:`~configcache_worker.gateway.authentication.Authenticator`. An async context
    manager, for what it holds.

    Args:
        accepted: What a request may present.
        credentials: Verifies passwords, tickets and sessions. None where none of them is accepted.
        verified: Remembers those that were.
        attempts: Slows down who guesses.
        tokens: Judges what comes with ``Bearer``. None where that is not accepted.
        close: Lets go of what the others hold.
    """

    def __init__(
        self,
        *,
        accepted: Accepted,
        credentials: CredentialVerifier | None,
        verified: Verified,
        attempts: Attempts,
        tokens: TokenJudge | None,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._accepted = accepted
        self._credentials = credentials
        self._verified = verified
        self._attempts = attempts
        self._tokens = tokens
        self._close = close
        self._turns: WeakValueDictionary[tuple[str, str | bytes], asyncio.Lock] = WeakValueDictionary()
        self._trouble: str | None = None

    def __repr__(self) -> str:
        return f"<Callers by {', '.join(sorted(self._accepted.schemes))}>"

    async def authenticate(self, request: Request) -> Associate | Refusal:
        """Tell who sent *request*; see :class:`~configcache_worker.gateway.authentication.Authenticator`."""
        presented = read(request.headers, request.cookies, self._accepted)
        client = client_of(request.client and request.client.host)
        match presented:
            case Unusable(message):
                return self._refused(message, client, with_session=self._has_session(request))
            case Token(token):
                return await self._judged(token, client)
            case _:
                return await self._admitted(presented, client)

    async def troubles(self) -> Mapping[str, str]:
        """Why callers can't be verified now, if they can't: the part, and a sentence about it."""
        troubles: dict[str, str] = {}
        try:
            if self._credentials is not None:
                await self._credentials.probe()
            if self._tokens is not None:
                await self._tokens.probe()
        except (CredentialsUnavailable, KeysUnavailable) as error:
            troubles["callers"] = str(error)
        return troubles

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _judged(self, token: str, client: str) -> Associate | Refusal:
        assert self._tokens is not None, "no token is read where none is accepted"
        try:
            judgement = await self._tokens.judge(token)
        except KeysUnavailable:  # the key set has logged it
            return _UNVERIFIABLE
        if isinstance(judgement, BadToken):
            return self._refused(judgement.message, client, scheme=Scheme.BEARER)
        return judgement

    async def _admitted(self, presented: Credential, client: str) -> Associate | Refusal:
        digest = self._verified.digest(*_parts(presented))
        # A secret alone has no name that others could be tried on: each has attempts of its own.
        name = presented.name if isinstance(presented, Password) else digest
        if refusal := self._must_wait(client, name):
            return refusal
        if associate := self._verified.get(digest):
            return associate
        turn = self._turns.setdefault((client, name), asyncio.Lock())
        async with turn:
            # What those before us found out counts: or a hundred guesses at once would be a hundred attempts for free.
            if refusal := self._must_wait(client, name):
                return refusal
            if associate := self._verified.get(digest):
                return associate
            return await self._looked_up(presented, client, name, digest)

    async def _looked_up(
        self, presented: Credential, client: str, name: str | bytes, digest: bytes
    ) -> Associate | Refusal:
        assert self._credentials is not None, "no credential is read where none is accepted"
        scheme = _scheme(presented)
        try:
            verdict = await self._credentials.verify(presented)
        except CredentialsUnavailable as error:
            self._note_trouble(str(error))
            return _UNVERIFIABLE
        except Busy:
            return _BUSY
        self._note_trouble(None)
        if verdict.associate is None:
            self._count_failure(client, name, scheme, verdict.name)
            return self._refused(_WRONG[scheme], client, scheme=scheme, name=verdict.name)
        self._attempts.succeeded(client, name)
        self._verified.put(digest, verdict.associate, valid_for_s=verdict.valid_for_s)
        return verdict.associate

    def _must_wait(self, client: str, name: str | bytes) -> Refusal | None:
        wait_s = self._attempts.wait_s(client, name)
        if wait_s <= 0:
            return None
        return Refusal(429, "TooManyAttempts", "too many wrong attempts", retry_after_s=math.ceil(wait_s))

    def _count_failure(self, client: str, name: str | bytes, scheme: Scheme, stored_name: str | None) -> None:
        wait_s = self._attempts.failed(client, name)
        if wait_s > 0:
            log.warning(
                "caller.throttled",
                client=client,
                scheme=scheme.value,
                name=stored_name,
                wait_s=wait_s,
                consequence="until then this client is refused with 429",
            )

    def _refused(
        self,
        message: str,
        client: str,
        *,
        scheme: Scheme | None = None,
        name: str | None = None,
        with_session: bool = False,
    ) -> Refusal:
        log.info("caller.refused", client=client, scheme=scheme and scheme.value, name=name, error=message)
        asked = challenges(
            self._accepted,
            bad_token=scheme is Scheme.BEARER,
            with_session=with_session or scheme is Scheme.SESSION,
        )
        return Refusal(401, "SoSessionException", message, asked)

    def _note_trouble(self, error: str | None) -> None:
        """Log a change, and not each request that suffers from it."""
        if error == self._trouble:
            return
        self._trouble = error
        if error is None:
            log.info("callers.verifiable")
        else:
            log.warning(
                "callers.unverifiable",
                error=error,
                consequence="who was not verified a moment ago is refused with 503",
            )

    def _has_session(self, request: Request) -> bool:
        return self._accepted.session_cookie in request.cookies and Scheme.SESSION in self._accepted.schemes


_UNVERIFIABLE: Final = Refusal(
    503, "CallersUnavailable", "callers can't be verified at the moment", retry_after_s=5
)
_BUSY: Final = Refusal(503, "TooBusy", "too many callers are being verified", retry_after_s=1)


def _scheme(presented: Credential) -> Scheme:
    match presented:
        case Password():
            return Scheme.BASIC
        case Ticket():
            return Scheme.TICKET
        case Session():
            return Scheme.SESSION


def _parts(presented: Credential) -> tuple[str, ...]:
    """What makes up the credential, and nothing else would."""
    match presented:
        case Password(name, password):
            return Scheme.BASIC, name, password
        case Ticket(ticket, app_token):
            return Scheme.TICKET, ticket, app_token or ""
        case Session(session_id, xsrf_token):
            return Scheme.SESSION, session_id, xsrf_token
