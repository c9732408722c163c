"""How much a pipeline may hold and ask for, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a pipeline."""

    prefetch: int = 5_000
    """Unsettled deliveries the broker lets us hold."""
    batch: int = 1_000
    """Most deliveries taken at once."""
    chunk_rows: int = 5_000
    """Most rows deleted in one transaction."""
    max_held_bytes: int = 32 * 1024 * 1024
    """Most bytes of unreadable messages held while they are taken to the dead letters."""


@dataclass(slots=True)
class Totals:
    """What a pipeline has done since it was made."""

    received: int = 0
    cleared: int = 0
    """Commands whose rows are gone, committed."""
    rows: int = 0
    batches: int = 0
    """Passes that committed."""
    buried: int = 0
    """Deliveries copied to the dead letters with their reason."""
    rejected: int = 0
    """Deliveries left to the broker's own dead-lettering."""
