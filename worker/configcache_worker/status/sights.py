"""
What was seen of a system, as values.

The names of the fields are the keys of the JSON document: they are stable. Numbers are as of the moment of the look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

Exactness: TypeAlias = Literal["exact", "estimate"]
DatabaseState: TypeAlias = Literal["writable", "read-only", "standby"]


@dataclass(frozen=True, slots=True)
class Unseen:
    """Something that could not be looked at."""

    why: str
    """One clause for the operator."""
    is_fault: bool = False
    """Whether that is its own fault, such as being down, and not merely a right that is missing."""


@dataclass(frozen=True, slots=True)
class Broker:
    """What answers, and as whom it was asked."""

    product: str
    version: str
    address: str
    virtual_host: str
    user: str


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands' queue."""

    waiting: int
    """Without those that a worker holds, up to its ``worker.prefetch``."""
    consumers: int


@dataclass(frozen=True, slots=True)
class Letters:
    """The dead-letter queue."""

    waiting: int
    looked_at: int | None
    """How many the reasons were read of. None: of none; then ``not_told`` says why."""
    by_reason: Mapping[str, int] | None
    """How many of those looked at have which reason."""
    not_told: str | None = None


@dataclass(frozen=True, slots=True)
class Database:
    """What answers, and as whom it was asked."""

    version: str
    address: str
    database: str
    role: str
    state: DatabaseState


@dataclass(frozen=True, slots=True)
class Cache:
    """The table of the cached rows."""

    table: str
    rows: int | None
    """Those that are being built count, too. None: ``not_told`` says why."""
    rows_are: Exactness | None
    building: int | None
    """Rows without content whose lease runs: somebody builds them. None in a table of one's own, which has no leases."""
    expired: int | None
    """Rows without content whose lease has run out; the next reader builds them."""
    clear_fails: str | None = None
    """Why a clear would fail. None: it would not, or that could not be tried, which ``not_told`` says."""
    not_told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outbox:
    """Commands that committed transactions have asked for and no relay has published yet."""

    rows: int
    rows_are: Exactness
    oldest_s: float | None
    """How long ago the first of them was asked for. None: there are none."""


@dataclass(frozen=True, slots=True)
class System:
    """All of it."""

    at: datetime
    """When the look began; aware."""
    broker: Broker | Unseen
    commands: Commands | Unseen
    letters: Letters | Unseen
    database: Database | Unseen
    cache: Cache | Unseen
    outbox: Outbox | Unseen


async def obstacle_to(look: Awaitable[None], *, patience_s: float, fault: type[Exception]) -> Unseen:
    """
    Let *look* see what it can within *patience_s*.

    Args:
        look: Keeps what it sees somewhere else, bit by bit.
        patience_s: Longest time for it.
        fault: What it raises when the server fails it.

    Returns:
        Why it saw no more. Without a reason if nothing was in its way.
    """
    try:
        async with asyncio.timeout(patience_s):
            await look
    except TimeoutError:
        return Unseen(f"no answer in {patience_s:g} s", is_fault=True)
    except fault as error:
        return Unseen(str(error), is_fault=True)
    return Unseen("")
