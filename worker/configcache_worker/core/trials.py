"""
What is held against which command, and when it is tried again.

Remembered by command and over sessions: a message that comes back after a lost connection is no better than before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from configcache_worker.core.faults import Suspicion, suspect
from configcache_worker.core.ports import Scope, TableFault

_REMEMBERED: Final = 10_000
_PATIENCE: Final = 3
"""So many different commands may fail alone, with nothing going through, before it counts as an outage."""


@dataclass(slots=True)
class _Trial:
    suspicion: Suspicion | None
    """None before it was tried alone."""
    due: float


class Trials:
    """The suspicions of a worker. Times are those of the event loop's clock, in seconds."""

    def __init__(self) -> None:
        self._trials: dict[Scope, _Trial] = {}
        self._contrasts = 0
        self._failed_in_a_row: set[Scope] = set()
        """Commands that failed alone since the last time anything went through."""
        self.not_before = 0.0
        """No trial at all until then."""

    def __contains__(self, scope: Scope) -> bool:
        return scope in self._trials

    def __bool__(self) -> bool:
        return bool(self._trials)

    @property
    def is_outage(self) -> bool:
        """Nothing goes through any more. That is the environment, whatever the SQLSTATE says."""
        return len(self._failed_in_a_row) >= _PATIENCE

    def went_through(self, scopes: Iterable[Scope], *, rows: int) -> None:
        """*scopes* were cleared and *rows* deleted: nothing is held against them, and others have a contrast."""
        self._contrasts += rows > 0
        self._failed_in_a_row.clear()
        self.not_before = 0.0
        if self._trials:
            for scope in scopes:
                self._trials.pop(scope, None)

    def failed(self, scope: Scope, fault: TableFault) -> Suspicion:
        """*scope* failed alone: weigh it. A convicted one is forgotten; :meth:`postpone` the others."""
        before = self._trials.pop(scope, None)
        suspicion = suspect(before.suspicion if before else None, fault, contrasts=self._contrasts)
        self._failed_in_a_row.add(scope)
        return suspicion

    def postpone(self, scope: Scope, suspicion: Suspicion | None, *, due: float) -> None:
        """Remember *suspicion*, None if *scope* was never tried alone, and that its next trial is at *due*."""
        self._trials[scope] = _Trial(suspicion, due)
        if len(self._trials) > _REMEMBERED:
            del self._trials[next(iter(self._trials))]

    def due(self, scope: Scope) -> float:
        """When *scope* may be tried again."""
        trial = self._trials.get(scope)
        return max(trial.due if trial else 0.0, self.not_before)
