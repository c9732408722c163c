"""
What a failed statement means, and what follows from it. Pure.

The environment is not the message's fault: while the database is down, read-only, full or not migrated, commands are
held. A command is convicted by contrast only: it failed alone, three times, while others went through in between.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from configcache_worker.core.ports import TableFault


class Blame(enum.Enum):
    """Where a fault comes from."""

    ENVIRONMENT = "environment"
    """Hold everything and try again: nobody's command can be cleared now."""
    SIZE = "size"
    """It took longer than we allow: ask for less at once."""
    COMMAND = "command"
    """One of the commands may be the cause: find out which, by trying them apart."""


# PostgreSQL documentation, appendix "Error Codes". Whole classes, by their first two characters: connection (08),
# feature not supported (0A: a cached plan), authorization (28), prepared statement (26), catalog name (3D), rollback
# (40: deadlock, serialization), access rule or missing table (42), resources (53), intervention (57), system (58),
# internal (XX).
_ENVIRONMENT_CLASSES = frozenset({"08", "0A", "26", "28", "3D", "40", "42", "53", "57", "58", "XX"})
_ENVIRONMENT_STATES = frozenset({"25006", "55P03"})  # read-only transaction; lock not available
_CONVICTING_FAILURES = 3


def blame(fault: TableFault) -> Blame:
    """Tell where *fault* comes from, by its SQLSTATE. What is unknown is tried apart, never taken for an outage."""
    if fault.timed_out:
        return Blame.SIZE
    if fault.unexpected:
        return Blame.COMMAND
    state = fault.sqlstate
    if state is None or state in _ENVIRONMENT_STATES or state[:2] in _ENVIRONMENT_CLASSES:
        return Blame.ENVIRONMENT
    return Blame.COMMAND


@dataclass(frozen=True, slots=True)
class Pace:
    """How much to ask of the database in one statement."""

    scopes: int
    rows: int

    def slower(self, *, tried: int) -> Pace | None:
        """
        The pace after *tried* scopes took too long: half the scopes, then half the rows.

        Returns:
            None when there is nothing less to ask: it is the environment then.
        """
        if tried > 1:
            return replace(self, scopes=max(tried // 2, 1))
        if self.rows > LEAST_ROWS:
            return replace(self, rows=max(self.rows // 2, LEAST_ROWS))
        return None

    def faster(self, most: Pace) -> Pace:
        """The pace after a success: twice as much, up to *most*."""
        return Pace(min(self.scopes * 2, most.scopes), min(self.rows * 2, most.rows))


LEAST_ROWS = 100
"""A statement is never asked for fewer rows than this."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What speaks against one command. Its first failure alone makes the first one of these."""

    failures: int
    """Failures that count: those with a contrast since the one before."""
    tries: int
    """All failures alone; the back-off grows with them."""
    contrasts: int
    """How many other commands had gone through at the last failure that counted."""

    @property
    def is_convicted(self) -> bool:
        return self.failures >= _CONVICTING_FAILURES


def suspect(before: Suspicion | None, fault: TableFault, *, contrasts: int) -> Suspicion:
    """
    Weigh one more failure of a command that was tried alone.

    Args:
        before: What was held against it until now.
        fault: How it failed. Only what may be the command's fault is held against it: neither an outage that only its rows
            meet (a lock, a damaged page), nor its size, nor a fault of this program.
        contrasts: How many commands have gone through and deleted rows, in all. A clear that finds nothing shows
            little: it goes through even where a trigger refuses every deletion.
    """
    may_convict = blame(fault) is Blame.COMMAND and not fault.unexpected
    if before is None:
        return Suspicion(failures=int(may_convict), tries=1, contrasts=contrasts)
    counts = may_convict and contrasts > before.contrasts
    return Suspicion(
        failures=before.failures + counts,
        tries=before.tries + 1,
        contrasts=contrasts if counts else before.contrasts,
    )
