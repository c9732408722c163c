"""The whole examination: settings first, then the servers side by side."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from functools import partial
from typing import Final

from configcache_worker.doctor import broker, database, management
from configcache_worker.doctor.findings import Finding, State, gathered, skipped
from configcache_worker.settings import Settings, SettingsError, Sources, read

SETTINGS: Final = "settings"
CHECKS: Final = (SETTINGS, *broker.CHECKS, *management.CHECKS, *database.CHECKS)
"""Every check there is, in the order in which they are told."""

_WORKERS_SECTIONS: Final = ("broker", "database", "cache", "worker", "telemetry")
BY_SETTINGS: Final = f"first mend {SETTINGS}"
PATIENCE_S: Final = 30.0


async def examine(
    *, config: str | None = None, management_url: str | None = None, patience_s: float = PATIENCE_S
) -> list[Finding]:
    """
    Find out whether a worker could work.

    Args:
        config: The TOML file with settings, as for every verb.
        management_url: Of the broker's management API, for what AMQP does not tell. None: there is none.
        patience_s: Longest time for all that is asked of one server.

    Returns:
        At least one finding for each of :data:`CHECKS`, in their order.
    """
    sources = read(config=config)
    on_settings = _settings(sources)
    # A misspelt name somewhere is told there, and keeps nobody from looking at what is spelt right.
    sources = replace(sources, problems=())
    groups = await asyncio.gather(
        _broker(sources, patience_s),
        _management(sources, management_url, patience_s),
        _database(sources, patience_s),
    )
    return [*on_settings, *itertools.chain(*groups)]


def _settings(sources: Sources) -> list[Finding]:
    try:
        sources.settings(_WORKERS_SECTIONS)
    except SettingsError as error:
        return [Finding(SETTINGS, State.WRONG, problem, "configcache settings") for problem in error.problems]
    return [Finding(SETTINGS, State.OK, "all that a worker needs is there and valid")]


async def _broker(sources: Sources, patience_s: float) -> list[Finding]:
    settings = valid(sources, "broker")
    if settings is None:
        return skipped(broker.CHECKS, BY_SETTINGS)
    return await gathered(broker.CHECKS, partial(broker.examine, settings.broker), timeout_s=patience_s)


async def _management(sources: Sources, url: str | None, patience_s: float) -> list[Finding]:
    settings = valid(sources, "broker")
    if settings is None:
        return skipped(management.CHECKS, BY_SETTINGS)
    examine = partial(management.examine, settings.broker, url)
    return await gathered(management.CHECKS, examine, timeout_s=patience_s)


async def _database(sources: Sources, patience_s: float) -> list[Finding]:
    settings = valid(sources, "database", "cache")
    if settings is None:
        return skipped(database.CHECKS, BY_SETTINGS)
    examine = partial(database.examine, settings.database, settings.cache)
    return await gathered(database.CHECKS, examine, timeout_s=patience_s)


def valid(sources: Sources, *sections: str) -> Settings | None:
    """The settings, if these *sections* are valid."""
    try:
        return sources.settings(sections)
    except SettingsError:
        return None
