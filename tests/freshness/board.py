"""
What readers, writers and workers of a stress, in processes of their own, must know of each other: numbers in a shared file.

For each associate of each instance, two versions. *published*: a writer has committed it, and publishes its command after
that. *cleared*: a worker has read it among the published ones before a pass began, and that pass has ended. So what is
*cleared* was cleared for certain, and a read that begins now must find nothing older.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

APPLICATION = "WebClient"
INSTANCES = ("Intranet", "Web")
ASSOCIATES = range(1, 21)
ITEMS = tuple(f"page{number}" for number in range(10))

_MOST_READERS = 8
_SLOTS = len(INSTANCES) * len(ASSOCIATES)
_STOP, _READS, _STALE, _PUBLISHED = 0, 1, 1 + _MOST_READERS, 1 + 2 * _MOST_READERS
_CLEARED = _PUBLISHED + _SLOTS
_LENGTH = _CLEARED + _SLOTS


def create(path: Path) -> Board:
    """A new board in the file *path*, all zero."""
    path.write_bytes(bytes(8 * _LENGTH))
    return Board(path)


class Board:
    """The board in a file that is there. Every number is written by one process at a time, and at once."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    @property
    def is_over(self) -> bool:
        """Whether everybody shall stop."""
        return bool(self._numbers[_STOP])

    def stop(self) -> None:
        """Let everybody stop."""
        self._numbers[_STOP] = 1

    def note(self, reader: int, *, reads: int, stale: int) -> None:
        """Tell what the reader process number *reader* has seen so far."""
        self._numbers[_READS + reader], self._numbers[_STALE + reader] = reads, stale

    @property
    def reads(self) -> int:
        """Of all reader processes."""
        return sum(self._numbers[_READS:_STALE])

    @property
    def stale(self) -> int:
        """Of all reader processes."""
        return sum(self._numbers[_STALE:_PUBLISHED])

    def published(self, slot: int) -> int:
        return self._numbers[_PUBLISHED + slot]

    def publish(self, slot: int, version: int) -> None:
        """Note that *version* is committed."""
        self._numbers[_PUBLISHED + slot] = version

    def cleared(self, slot: int) -> int:
        return self._numbers[_CLEARED + slot]

    def clear(self, slot: int, version: int) -> None:
        """Note that what was built from before *version* has been cleared."""
        self._numbers[_CLEARED + slot] = max(self._numbers[_CLEARED + slot], version)


def slot_of(instance: str, associate: int) -> int:
    """The place of an associate on the board."""
    return INSTANCES.index(instance) * len(ASSOCIATES) + associate - 1


def slots_of(instance: str, associate: int | None) -> Iterator[int]:
    """The places of a command's scope."""
    for each in ASSOCIATES if associate is None else (associate,):
        yield slot_of(instance, each)
