"""How much a pipeline may hold and ask for."""

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
