"""
Slows down who guesses: after some wrong attempts the next must wait, each time twice as long.

Counted in memory, for each name at each address, and for each address whatever the names. What is tried while it must wait
is refused unseen and does not count.
"""

from __future__ import annotations

import functools
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple

_MOST: Final = 10_000
_FIRST_WAIT_S: Final = 1.0
_MOST_DOUBLINGS: Final = 30
_CLIENTS_FORGET_S: Final = 1.0
"""An address may be a whole company's. A wrong attempt a second, for ever, is not yet a sign of guessing."""


class _Count(NamedTuple):
    failures: int
    counted_from: float
    """Since then none has been forgotten."""
    may_try_at: float


class BackOff:
    """
    Failures by key.

    Args:
        free: How many failures cost nothing.
        forget_s: One failure is forgotten in so many seconds.
        longest_s: No wait is longer than this.
        most: How many keys are known; the one that failed longest ago is forgotten first.
        now: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        *,
        free: int,
        forget_s: float,
        longest_s: float,
        most: int = _MOST,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free = free
        self._forget_s = forget_s
        self._longest_s = longest_s
        self._most = most
        self._now = now
        self._counts: OrderedDict[Hashable, _Count] = OrderedDict()

    def __repr__(self) -> str:
        return f"<BackOff {len(self._counts)} of {self._most}>"

    def wait_s(self, key: Hashable) -> float:
        """How long *key* must wait before it may try, 0 if it need not."""
        count = self._counts.get(key)
        return max(0.0, count.may_try_at - self._now()) if count else 0.0

    def failed(self, key: Hashable) -> float:
        """Count a failure of *key*. How long it must wait now."""
        now = self._now()
        before = self._counts.pop(key, _Count(0, now, now))
        forgotten = min(before.failures, int((now - before.counted_from) / self._forget_s))
        failures = before.failures - forgotten + 1
        counted_from = before.counted_from + forgotten * self._forget_s if failures > 1 else now
        wait_s = self._wait_after_s(failures)
        self._counts[key] = _Count(failures, counted_from, now + wait_s)
        if len(self._counts) > self._most:
            self._counts.popitem(last=False)
        return wait_s

    def succeeded(self, key: Hashable) -> None:
        """Forget the failures of *key*."""
        self._counts.pop(key, None)

    def _wait_after_s(self, failures: int) -> float:
        if failures < self._free:
            return 0.0
        doublings = min(failures - self._free, _MOST_DOUBLINGS)
        return min(self._longest_s, _FIRST_WAIT_S * 2.0**doublings)


class Attempts:
    """
    Wrong attempts by name and address, and by address alone.

    Args:
        on_a_name: How many on one name from one address cost nothing.
        of_a_client: How many from one address cost nothing, whatever the names.
        longest_s: No wait is longer than this.
        now: Seconds on a clock that never goes back.
    """

    def __init__(
        self, *, on_a_name: int, of_a_client: int, longest_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._names = BackOff(free=on_a_name, forget_s=longest_s, longest_s=longest_s, now=now)
        self._clients = BackOff(free=of_a_client, forget_s=_CLIENTS_FORGET_S, longest_s=longest_s, now=now)

    def wait_s(self, client: str, name: Hashable) -> float:
        """How long *client* must wait before it may try *name*, 0 if it need not."""
        return max(self._names.wait_s((client, name)), self._clients.wait_s(client))

    def failed(self, client: str, name: Hashable) -> float:
        """Count a wrong attempt. How long the next must wait."""
        return max(self._names.failed((client, name)), self._clients.failed(client))

    def succeeded(self, client: str, name: Hashable) -> None:
        """Forget the wrong attempts on *name*. Those of the address stay: one good name must not pay for guesses."""
        self._names.succeeded((client, name))


@functools.lru_cache(maxsize=1_024)
def client_of(address: str | None) -> str:
    """
    What counts as one client: an IPv4 address, or the network of an IPv6 address, of which anybody has many.

    Args:
        address: As the server tells it. None where it does not know, as with a socket that is a file.
    """
    try:
        ip = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return address or "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
