"""
Judges a JWT (RFC 7519): who has signed it, for whom, until when, and which associate it names.

What the token says of itself is believed only after its signature was verified with a key that the issuer publishes, by an
algorithm of that key's kind. What is told of a refused token is told to whoever had the issuer sign it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from configcache_worker.gateway.authentication import Associate
from configcache_worker.gateway.keys import ALGORITHMS, KeySet

_GREATEST_ID: Final = 2**63 - 1
_REQUIRED: Final = ("exp", "iss", "aud")

_IN_WORDS: Final[tuple[tuple[type[jwt.InvalidTokenError], str], ...]] = (
    (jwt.ExpiredSignatureError, "the token has expired"),
    (jwt.ImmatureSignatureError, "the token is not valid yet: nbf or iat is in the future"),
    (jwt.InvalidAudienceError, "the token is for another audience: aud must have the name of this gateway"),
    (jwt.InvalidIssuerError, "the token is from another issuer"),
    (jwt.InvalidSignatureError, "the token's signature is wrong"),
)


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims tell what."""

    associate: str
    """The associate's id."""
    right: str
    """Whether it may clear for all ..."""
    right_value: str
    """... by having this in it. Empty: by being true."""


@dataclass(frozen=True, slots=True)
class BadToken:
    """Why a token is refused."""

    message: str
    """For the sender."""


class TokenJudge:
    """
    Judges tokens of one issuer.

    Args:
        keys: The issuer's.
        issuer: The ``iss`` of its tokens.
        audience: What must be in their ``aud``.
        leeway_s: How far its clock may be from ours.
        claims: Which claims tell what.
    """

    def __init__(self, keys: KeySet, *, issuer: str, audience: str, leeway_s: float, claims: Claims) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._claims = claims

    def __repr__(self) -> str:
        return f"<TokenJudge for {self._issuer}, {self._keys!r}>"

    async def judge(self, token: str) -> Associate | BadToken:
        """
        Whom *token* names.

        Raises:
            KeysUnavailable: There is no key to verify it with: not the token's fault.
        """
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, RecursionError):
            return BadToken("the token is not a signed JWT")
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS or not isinstance(kid, str | None):
            return BadToken(f"the token must be signed by one of {', '.join(ALGORITHMS)}")
        key = await self._keys.find(kid, algorithm)
        if key is None:
            return BadToken("the token is signed with a key that the issuer does not publish")
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(key.algorithms),
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options={"require": list(_REQUIRED)},
            )
        except (jwt.InvalidTokenError, RecursionError) as error:
            return BadToken(_in_words(error))
        return self._associate(claims)

    async def probe(self) -> None:
        """
        Find out whether there are keys to verify with.

        Raises:
            KeysUnavailable: There are none.
        """
        await self._keys.find(None, ALGORITHMS[0])

    async def close(self) -> None:
        """Let go of the keys. Safe to repeat."""
        await self._keys.close()

    def _associate(self, claims: Mapping[str, Any]) -> Associate | BadToken:
        associate_id = _as_id(_claim(claims, self._claims.associate))
        if associate_id is None:
            return BadToken(
                f"the token names no associate: its claim {self._claims.associate} must be a number from 1 to {_GREATEST_ID}"
            )
        right = _claim(claims, self._claims.right)
        return Associate(associate_id, may_clear_all=_has_right(right, self._claims.right_value))


def _in_words(error: Exception) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"the token has no {error.claim}; it must have {', '.join(_REQUIRED)}"
    return next((text for kind, text in _IN_WORDS if isinstance(error, kind)), "the token is not valid")


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """The claim *name*; if there is none, where its dots lead."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _as_id(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,18}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 1 <= value <= _GREATEST_ID else None


def _has_right(value: object, wanted: str) -> bool:
    if not wanted:
        return value is True
    if isinstance(value, str):
        return wanted in value.split(" ")
    return isinstance(value, list) and wanted in value
