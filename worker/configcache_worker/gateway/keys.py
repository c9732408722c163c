"""
The public keys of a token's issuer, as a JSON Web Key Set (RFC 7517), and when to read them again.

An issuer that changes its keys publishes the next before it signs with it and the last for as long as tokens live. So a set
is read again when it has grown old, and when a token names a key that is not in it. Whoever may name keys is a stranger:
there is a least time between two readings. If one fails, the last good set stays in use.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

if TYPE_CHECKING:
    from jwt.algorithms import AllowedPublicKeys

log = structlog.stdlib.get_logger()

_LEAST_RSA_BITS: Final = 2048
_PATIENCE_S: Final = 1.0

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_KIND: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS: Final = tuple(name for names in _BY_KIND.values() for name in names)
"""What a token may be signed with: with a private key, which none but its issuer has. Never ``none``, never a password."""

_PUBLIC_PARTS: Final = ("kty", "n", "e", "crv", "x", "y")


class KeysUnavailable(Exception):
    """There is no key set, or none that can be used. The text is one line for the log."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, and what may be verified with it."""

    kid: str | None
    algorithms: tuple[str, ...]
    key: AllowedPublicKeys


class KeySource(Protocol):
    """Where a key set is read from."""

    fresh_s: float
    """For how long a set is used without another look."""
    again_s: float
    """The least time between two readings."""

    async def read(self) -> bytes:
        """
        The document, in bounded time and size.

        Raises:
            KeysUnavailable: It can't be read.
        """
        ...


class KeySet:
    """
    The keys that *source* publishes. Nothing is read until the first is asked for.

    Args:
        source: Where they are.
        now: Seconds on a clock that never goes back.
    """

    def __init__(self, source: KeySource, *, now: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._now = now
        self._keys: tuple[Key, ...] | None = None
        self._document: bytes | None = None
        self._read_at = float("-inf")
        self._trouble: str | None = None
        self._reading: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<KeySet of {self._source!r}, {len(self._keys or ())} keys>"

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """
        The key for a token that says it was signed with *kid* and *algorithm*; None if there is no such key.

        A token that names no key is verified with the only one for its algorithm; if there are several, with none.

        Raises:
            KeysUnavailable: No set could be read yet.
        """
        if self._keys is None:
            await self._read_again(patience_s=None)
        elif self._is_older_than(self._source.fresh_s):
            # A server that does not answer must not hold up those whose keys are known.
            await self._read_again(patience_s=_PATIENCE_S)
        key = self._match(kid, algorithm)
        if key is None and kid is not None:
            await self._read_again(patience_s=None)
            key = self._match(kid, algorithm)
        return key

    async def close(self) -> None:
        """Give up a reading that is under way. Safe to repeat."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _match(self, kid: str | None, algorithm: str) -> Key | None:
        if self._keys is None:
            raise KeysUnavailable(self._trouble or "the key set was not read yet")
        fitting = [key for key in self._keys if algorithm in key.algorithms and kid in (None, key.kid)]
        return fitting[0] if len(fitting) == 1 else None

    def _is_older_than(self, age_s: float) -> bool:
        return self._now() - self._read_at >= age_s

    async def _read_again(self, *, patience_s: float | None) -> None:
        """Read the set unless that has just been done; wait for it, or for a reading under way."""
        if self._reading is None or self._reading.done():
            if not self._is_older_than(self._source.again_s):
                return
            self._read_at = self._now()
            self._reading = asyncio.create_task(self._read(), name="key set")
        await asyncio.wait({self._reading}, timeout=patience_s)

    async def _read(self) -> None:
        try:
            document = await self._source.read()
            if document != self._document:
                self._keys, self._document = parse(document), document
                log.info("keys.read", source=repr(self._source), keys=[key.kid for key in self._keys])
            self._trouble = None
        except KeysUnavailable as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning(
                    "keys.unavailable",
                    error=self._trouble,
                    kept=len(self._keys or ()),
                    consequence="tokens are judged by the last keys that could be read; without any, refused with 503",
                )


def parse(document: bytes) -> tuple[Key, ...]:
    """
    The keys of *document* that can verify a signature. What is meant for something else is left out.

    Raises:
        KeysUnavailable: It is no key set, or none of its keys can be used.
    """
    try:
        listed = json.loads(document)["keys"]
        keys = [key for jwk in listed if (key := _key(jwk)) is not None]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise KeysUnavailable('the key set must be a JSON object with a list of "keys"') from None
    if not keys:
        raise KeysUnavailable(
            f"none of the {len(listed)} keys of the set can verify a token: RSA of {_LEAST_RSA_BITS} bits and more, "
            "P-256, P-384, P-521 or Ed25519, for signatures"
        )
    return tuple(keys)


def _key(jwk: Mapping[str, Any]) -> Key | None:
    algorithms = _BY_KIND.get((jwk["kty"], jwk.get("crv")), ())
    if "alg" in jwk:
        algorithms = tuple(name for name in algorithms if name == jwk["alg"])
    is_for_signatures = jwk.get("use", "sig") == "sig" and "verify" in jwk.get("key_ops", ["verify"])
    if not algorithms or not is_for_signatures:
        return None
    try:
        # Without its private part, should somebody have published that.
        key = jwt.PyJWK({name: jwk[name] for name in _PUBLIC_PARTS if name in jwk}, algorithms[0]).key
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        return None
    kid = jwk.get("kid")
    return Key(kid if isinstance(kid, str) else None, algorithms, key)
