"""
The one retry policy: how long to wait before trying again, and how often a publish is tried. Pure; who waits, and for
what, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Final, Protocol

from configcache.errors import BrokerUnavailable, PublishError, Refused

__all__ = ["Retries", "RetryPolicy"]


class _RetryState(Protocol):
    """The part of ``tenacity.RetryCallState`` that a wait policy needs."""

    @property
    def attempt_number(self) -> int: ...


_SYSTEM_RANDOM: Final = SystemRandom()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How long to wait before trying again: exponential back-off with full jitter.

    The one policy for everything that is retried. It is callable, to serve as tenacity's ``wait=`` too.
    """

    first_s: float = 0.05
    """The longest delay after the first failure; the bound doubles with each further one."""
    longest_s: float = 10.0
    """No delay is longer than this."""
    random: Random = field(default=_SYSTEM_RANDOM, repr=False, compare=False)
    """Where the jitter comes from."""

    def delay_s(self, attempt: int) -> float:
        """
        A random delay in seconds after failed attempt number *attempt*, counted from 1.

        From the whole range down to 0, since processes that lost the broker together would else return together.
        """
        doublings = min(attempt - 1, 63)  # keeps the power within a float, and is far past longest_s
        return self.random.uniform(0.0, min(self.longest_s, self.first_s * 2.0**doublings))

    def __call__(self, retry_state: _RetryState) -> float:
        return self.delay_s(retry_state.attempt_number)


@dataclass(frozen=True, slots=True)
class Retries:
    """
    How often a publish is tried, and after which errors again.

    The default tries once. Within an attempt a lost connection costs no error already; what comes through is a broker
    that is away, and a request that is waited for should hear of that at once. A script or a job may have more time::

        Publisher(url=..., retries=Retries(attempts=8))
    """

    attempts: int = 1
    """Of all, the first included. Each takes up to the publisher's ``timeout_s``."""
    delays: RetryPolicy = RetryPolicy()
    """How long to wait between two of them."""
    on: tuple[type[PublishError], ...] = (BrokerUnavailable, Refused)
    """After which errors. Not after ``Unroutable``, by default: no queue is bound until somebody sets one up."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts!r}")

    def delays_s(self) -> Iterator[float]:
        """Seconds to wait after each attempt but the last."""
        return (self.delays.delay_s(attempt) for attempt in range(1, self.attempts))
