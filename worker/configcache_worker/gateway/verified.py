"""
Credentials that were verified a moment ago, so that not every request costs a look-up and a password's hash.

In memory, bounded in number and in time, and without any secret: a credential is remembered by a keyed hash, whose key
nobody but this process has.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from configcache_worker.gateway.authentication import Associate

_MOST: Final = 10_000


class _Entry(NamedTuple):
    associate: Associate
    until: float


class Verified:
    """
    Remembers who presented what.

    Args:
        ttl_s: For how long at most; so long does a credential work after it has been revoked. 0: not at all.
        most: How many at most; the one that was used longest ago goes first.
        now: Seconds on a clock that never goes back.
    """

    def __init__(self, *, ttl_s: float, most: int = _MOST, now: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._now = now
        self._key = secrets.token_bytes(32)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Verified {len(self._entries)} of {self._most}>"

    def digest(self, *parts: str) -> bytes:
        """What a credential that consists of *parts* is remembered by."""
        # Each part hashed before they are joined: what is a part's end can't be moved.
        joined = b"".join(hashlib.sha256(part.encode()).digest() for part in parts)
        return hmac.digest(self._key, joined, "sha256")

    def get(self, digest: bytes) -> Associate | None:
        """Whom that credential belongs to, if it was verified lately."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if entry.until <= self._now():
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return entry.associate

    def put(self, digest: bytes, associate: Associate, *, valid_for_s: float | None) -> None:
        """
        Remember that a credential belongs to *associate*.

        Args:
            digest: From :meth:`digest`.
            associate: Whose it is.
            valid_for_s: When it expires, from now. None: never.
        """
        for_s = self._ttl_s if valid_for_s is None else min(self._ttl_s, valid_for_s)
        if for_s <= 0:
            return
        self._entries[digest] = _Entry(associate, self._now() + for_s)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
