"""
Passwords and their argon2 hashes: hashing one for the table, and comparing without telling by time who exists.

A comparison takes a fifth of a second of a processor and 64 MiB, by design. It runs in threads, few at a time;
past a bound more are refused rather than piled up.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from argon2 import Parameters, PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError
from argon2.profiles import RFC_9106_LOW_MEMORY

_AT_ONCE: Final = 2
_MOST_WAITING: Final = 32


class Busy(Exception):
    """Too many passwords are being compared already."""


class UnusableHash(Exception):
    """What is stored is no argon2 hash. The text doesn't repeat it."""


def hash_password(password: str) -> str:
    """What to store for *password*: argon2id in its PHC form, with a salt of its own."""
    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY).hash(password)


class PasswordChecker:
    """
    Compares passwords with hashes.

    Args:
        at_once: How many at the same time.
        most_waiting: How many more may wait for their turn.
    """

    def __init__(self, *, at_once: int = _AT_ONCE, most_waiting: int = _MOST_WAITING) -> None:
        self._most = at_once + most_waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="argon2")
        self._under_way = 0
        self._usual: Parameters = RFC_9106_LOW_MEMORY

    def __repr__(self) -> str:
        return f"<PasswordChecker {self._under_way} of {self._most}>"

    async def matches(self, password: str, stored: str | None) -> bool:
        """
        Whether *password* is the one that *stored* is the hash of.

        Takes as long where *stored* is None, since nobody has that name, and where it is no hash: then it is hashed as the
        last real one was.

        Raises:
            Busy: Too many are being compared.
            UnusableHash: *stored* is no argon2 hash.
        """
        if self._under_way >= self._most:
            raise Busy
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._compare, password, stored
            )
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """End the threads. Comparisons that wait are not made."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _compare(self, password: str, stored: str | None) -> bool:
        if stored is None:
            self._pass_the_time(password)
            return False
        try:
            parameters = extract_parameters(stored)
            matches = _verified(stored, password)
        except (InvalidHashError, VerificationError, ValueError) as error:
            # Somebody whose password is locked by a mark in its place would else be known by a quick answer.
            self._pass_the_time(password)
            raise UnusableHash(
                "the column secret_hash holds no argon2 hash: it must begin with $argon2id$"
            ) from error
        self._usual = parameters
        return matches

    def _pass_the_time(self, password: str) -> None:
        """Take as long as the last comparison with a real hash."""
        PasswordHasher.from_parameters(self._usual).hash(password)


def _verified(stored: str, password: str) -> bool:
    try:
        return PasswordHasher().verify(stored, password)
    except VerifyMismatchError:
        return False
