"""
Every setting of the program, as one frozen object.

A value comes from the environment (``CONFIGCACHE_BROKER__URL``, or ``CONFIGCACHE_BROKER__URL_FILE`` naming a file that
holds it), else from the TOML file, else it is the default. :func:`load` validates the sections a verb uses and no
others. Nothing is read at import; environment and directory can be given as arguments.

Read on in ``sections`` (what there is), ``urls`` (what is wrong with one), ``names`` (what a setting is called),
``sources`` (where values come from).
"""

from __future__ import annotations

from configcache_worker.settings.names import Setting, every_setting, masked
from configcache_worker.settings.sections import (
    SECTIONS,
    BrokerSettings,
    CacheColumns,
    CacheSettings,
    DatabaseSettings,
    GatewaySettings,
    JwtSettings,
    LogFormat,
    LogLevel,
    RelaySettings,
    Settings,
    TelemetrySettings,
    WorkerSettings,
)
from configcache_worker.settings.sources import Effective, SettingsError, Sources, load, read

__all__ = [
    "SECTIONS",
    "BrokerSettings",
    "CacheColumns",
    "CacheSettings",
    "DatabaseSettings",
    "Effective",
    "GatewaySettings",
    "JwtSettings",
    "LogFormat",
    "LogLevel",
    "RelaySettings",
    "Setting",
    "Settings",
    "SettingsError",
    "Sources",
    "TelemetrySettings",
    "WorkerSettings",
    "every_setting",
    "load",
    "masked",
    "read",
]
