"""The rules of the protocol, each broken in turn. Model and stress know how to break each of them, and must both notice."""

from __future__ import annotations

import enum


class Mutation(enum.Enum):
    """What is broken."""

    NO_FENCE = "no lease at all: whoever misses builds, and stores"
    STORE_WITHOUT_LEASE = "store looks for the row, and not for its lease"
    LEASE_KEPT_ACROSS_CLEAR = "a clear leaves the rows that are being built"
    READ_BEFORE_BEGIN = "the configuration is read before begin"
    WAITER_ACCEPTS_REFUSED = "who waits takes what a builder could not store"
