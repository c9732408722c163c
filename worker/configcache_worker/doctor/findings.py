"""A finding, and how the findings about one server are gathered within bounded time."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


class State(enum.StrEnum):
    """What became of a check."""

    OK = "ok"
    WARNING = "warning"
    """Works, but somebody should look at it."""
    WRONG = "wrong"
    """A worker could not do its work."""
    SKIPPED = "skipped"
    """Not found out; the text says why."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found."""

    check: str
    """A stable word."""
    state: State
    text: str
    mend: str | None = None
    """A command or a change that mends it; of a check that was skipped, one that finds out. None: nothing to do."""


Report = Callable[[Finding], None]
"""Takes each finding as soon as it is there, so that those before a failure are kept."""

Examine = Callable[[Report], Awaitable[None]]


async def gathered(checks: Sequence[str], examine: Examine, *, timeout_s: float) -> list[Finding]:
    """
    What *examine* reports within *timeout_s*; those of *checks* that it did not come to are skipped.

    Args:
        checks: What it can report, in that order.
        examine: Reports findings; stops early where the next checks would make no sense.
        timeout_s: For all of it.
    """
    found: list[Finding] = []
    try:
        async with asyncio.timeout(timeout_s):
            await examine(found.append)
    except TimeoutError:
        found.append(Finding(_first_missing(checks, found), State.WRONG, f"no answer in {timeout_s:g} s"))
    not_made = [check for check in checks if check not in _names(found)]
    return sorted(
        [*found, *skipped(not_made, _obstacle(found))], key=lambda finding: checks.index(finding.check)
    )


def skipped(checks: Sequence[str], reason: str) -> list[Finding]:
    """Say of each of *checks* that it was not made."""
    return [Finding(check, State.SKIPPED, f"not checked: {reason}") for check in checks]


def _first_missing(checks: Sequence[str], found: Sequence[Finding]) -> str:
    return next((check for check in checks if check not in _names(found)), checks[-1])


def _obstacle(found: Sequence[Finding]) -> str:
    wrong = [finding.check for finding in found if finding.state is State.WRONG]
    return f"first mend {wrong[0]}" if wrong else "the examination ended before"


def _names(found: Sequence[Finding]) -> set[str]:
    return {finding.check for finding in found}
