"""
Puts the authentication together from settings.

Not in ``app``, where the rest of the program is put together: a worker is installed without what passwords and tokens need.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

from configcache_worker.gateway.attempts import Attempts
from configcache_worker.gateway.callers import Callers
from configcache_worker.gateway.credentials import CredentialVerifier
from configcache_worker.gateway.key_sources import key_source
from configcache_worker.gateway.keys import KeySet
from configcache_worker.gateway.passwords import PasswordChecker
from configcache_worker.gateway.schemes import Accepted, Scheme
from configcache_worker.gateway.tokens import Claims, TokenJudge
from configcache_worker.gateway.verified import Verified
from configcache_worker.postgres.connection import TimeLimits
from configcache_worker.postgres.credentials import PostgresCredentials
from configcache_worker.settings import DatabaseSettings, GatewaySettings, JwtSettings, Settings


def build_callers(settings: Settings) -> Callers:
    """
    What tells who calls. Connects to nothing and reads nothing yet; close it in the end.

    Args:
        settings: The section ``gateway``; unless only Bearer is accepted, ``database`` too, and ``cache`` for its schema.
    """
    gateway = settings.gateway
    closing = AsyncExitStack()
    tokens = credentials = None
    if gateway.accepts("bearer"):
        tokens = _tokens(gateway.jwt)
        closing.push_async_callback(tokens.close)
    if gateway.needs_database:
        store = _store(settings.database, settings.cache.schema_)
        passwords = PasswordChecker()
        closing.push_async_callback(store.close)
        closing.callback(passwords.close)
        credentials = CredentialVerifier(store, passwords=passwords)
    return Callers(
        accepted=accepted(gateway),
        credentials=credentials,
        verified=Verified(ttl_s=gateway.credential_ttl_s),
        attempts=Attempts(
            on_a_name=gateway.attempts,
            of_a_client=gateway.attempts_of_client,
            longest_s=gateway.longest_wait_s,
        ),
        tokens=tokens,
        close=closing.aclose,
    )


def accepted(gateway: GatewaySettings) -> Accepted:
    """What the settings say a request may present."""
    schemes = {
        Scheme.BEARER: gateway.accepts("bearer"),
        Scheme.BASIC: gateway.accepts("basic"),
        Scheme.TICKET: gateway.accepts("ticket"),
        Scheme.SESSION: gateway.accepts("session"),
    }
    return Accepted(
        schemes=frozenset(scheme for scheme, is_on in schemes.items() if is_on),
        app_token=gateway.installation == "online",
        session_cookie=gateway.session_cookie,
    )


def _tokens(jwt: JwtSettings) -> TokenJudge:
    return TokenJudge(
        KeySet(key_source(jwt.jwks)),
        issuer=jwt.issuer,
        audience=jwt.audience,
        leeway_s=jwt.leeway_s,
        claims=Claims(associate=jwt.associate_claim, right=jwt.right_claim, right_value=jwt.right_value),
    )


def _store(database: DatabaseSettings, schema: str) -> PostgresCredentials:
    return PostgresCredentials(
        database.url,
        schema=schema,
        limits=TimeLimits.of(database),
        cache_statements=database.statement_cache,
    )
