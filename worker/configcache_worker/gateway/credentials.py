"""
Verifies passwords, tickets and sessions against what is stored of them.

A password is found by its user's name and compared with an argon2 hash. Tickets, sessions and the tokens of applications
are random, so that a plain hash of them is as good as a secret: they are found by it. Whether nobody has such a
credential, or it has expired, or belongs to nobody, is not told apart, neither in words nor in time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import structlog

from configcache_worker.gateway.authentication import Associate
from configcache_worker.gateway.passwords import PasswordChecker, UnusableHash
from configcache_worker.gateway.schemes import Password, Session, Ticket

if TYPE_CHECKING:
    from configcache_worker.postgres.credentials import CredentialKind, StoredCredential

log = structlog.stdlib.get_logger()

_GREATEST_ID: Final = 2**63 - 1

Credential: TypeAlias = Password | Ticket | Session


class CredentialStore(Protocol):
    """Where credentials are looked up. Either method gives all that fit, or of many two."""

    async def by_name(self, kind: CredentialKind, name: str) -> Sequence[StoredCredential]:
        """
        Those of *name*.

        Raises:
            CredentialsUnavailable: The environment's fault.
        """
        ...

    async def by_hash(self, kind: CredentialKind, secret_hash: str) -> Sequence[StoredCredential]:
        """The same of *secret_hash*."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a credential."""

    associate: Associate | None
    """Whose it is. None: nobody's, or not any more."""
    name: str | None
    """What is stored as its name, for the log. None: it is not stored."""
    valid_for_s: float | None = None
    """None: it does not expire."""


_UNKNOWN: Final = Verdict(None, None)


class CredentialVerifier:
    """
    Verifies what was presented.

    Args:
        store: Where it is looked up.
        passwords: Compares passwords.
    """

    def __init__(self, store: CredentialStore, *, passwords: PasswordChecker) -> None:
        self._store = store
        self._passwords = passwords

    async def verify(self, presented: Credential) -> Verdict:
        """
        Whose *presented* is.

        Raises:
            CredentialsUnavailable: It could not be looked up.
            Busy: Too many passwords are being compared.
        """
        match presented:
            case Password(name, password):
                return await self._password(name, password)
            case Ticket(ticket, app_token):
                return await self._ticket(ticket, app_token)
            case Session(session_id, xsrf_token):
                return _judged("session", await self._found("session", f"{session_id} {xsrf_token}"))

    async def probe(self) -> None:
        """
        Find out whether anybody could be looked up.

        Raises:
            CredentialsUnavailable: Nobody could.
        """
        await self._store.by_name("password", "")

    async def _password(self, name: str, password: str) -> Verdict:
        stored = _only("password", await self._store.by_name("password", name))
        try:
            # Also where nobody has that name, and where it has expired: for the time it takes.
            matches = await self._passwords.matches(password, stored.secret_hash if stored else None)
        except UnusableHash as error:
            _tell_unusable("password", name, str(error))
            matches = False
        if stored is None:
            return _UNKNOWN
        return _judged("password", stored) if matches else Verdict(None, stored.name)

    async def _ticket(self, ticket: str, app_token: str | None) -> Verdict:
        verdict = _judged("ticket", await self._found("ticket", ticket))
        if app_token is None:
            return verdict
        # Looked up also where the ticket is nobody's: for the time it takes.
        application = await self._found("app-token", app_token)
        if application is None or application.expires_in_s == 0:
            return Verdict(None, verdict.name)
        return Verdict(
            verdict.associate, verdict.name, _sooner([verdict.valid_for_s, application.expires_in_s])
        )

    async def _found(self, kind: CredentialKind, secret: str) -> StoredCredential | None:
        secret_hash = hashlib.sha256(secret.encode()).hexdigest()
        stored = _only(kind, await self._store.by_hash(kind, secret_hash))
        # Compared once more, since the database may take other texts for equal.
        if stored is not None and hmac.compare_digest(stored.secret_hash.encode(), secret_hash.encode()):
            return stored
        return None


def _only(kind: CredentialKind, found: Sequence[StoredCredential]) -> StoredCredential | None:
    if len(found) > 1:
        _tell_unusable(kind, found[0].name, "the view has several rows of it")
        return None
    return found[0] if found else None


def _judged(kind: CredentialKind, stored: StoredCredential | None) -> Verdict:
    """The verdict on what was found, and is what was presented."""
    if stored is None:
        return _UNKNOWN
    if stored.expires_in_s == 0:
        return Verdict(None, stored.name)
    if stored.associate_id is None or not 1 <= stored.associate_id <= _GREATEST_ID:
        _tell_unusable(kind, stored.name, "the column associate_id must be 1 or more")
        return Verdict(None, stored.name)
    associate = Associate(stored.associate_id, may_clear_all=stored.may_clear_all is True)
    return Verdict(associate, stored.name, stored.expires_in_s)


def _sooner(times_s: Iterable[float | None]) -> float | None:
    return min((time_s for time_s in times_s if time_s is not None), default=None)


def _tell_unusable(kind: CredentialKind, name: str, error: str) -> None:
    log.warning(
        "credential.unusable", kind=kind, name=name, error=error, consequence="it is refused like a wrong one"
    )
