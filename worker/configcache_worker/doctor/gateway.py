"""The examination of a gateway: what it would meet on the broker, in the database, and at the issuer of tokens."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from functools import partial
from typing import Final

from configcache.connection import BrokerUnavailable
from configcache.topology import COMMAND_EXCHANGE, COMMAND_QUEUE, PRODUCER_PERMISSIONS
from configcache_worker.doctor import credentials
from configcache_worker.doctor.broker import ALARMS, BROKER, RIGHTS, TOPOLOGY_PRESENT, User, product
from configcache_worker.doctor.examination import BY_SETTINGS, PATIENCE_S, SETTINGS, valid
from configcache_worker.doctor.findings import Finding, Report, State, gathered, skipped
from configcache_worker.gateway.key_sources import key_source
from configcache_worker.gateway.keys import KeysUnavailable, parse
from configcache_worker.rabbitmq.inspection import BrokerBlocked, Inspection, Problem
from configcache_worker.settings import BrokerSettings, GatewaySettings, SettingsError, Sources, read

KEYS: Final = "keys"
_BROKER_CHECKS: Final = (BROKER, TOPOLOGY_PRESENT, ALARMS, RIGHTS)
GATEWAY_CHECKS: Final = (SETTINGS, *_BROKER_CHECKS, *credentials.CHECKS, KEYS)
"""Every check there is of a gateway, in the order in which they are told."""

_SECTIONS: Final = ("broker", "gateway", "telemetry")
_NEEDED_BY_PUBLISHING: Final = frozenset({COMMAND_EXCHANGE, COMMAND_QUEUE})


async def examine_gateway(*, config: str | None = None, patience_s: float = PATIENCE_S) -> list[Finding]:
    """
    Find out whether a gateway could work.

    Args:
        config: The TOML file with settings, as for every verb.
        patience_s: Longest time for all that is asked of one server.

    Returns:
        At least one finding for each of :data:`GATEWAY_CHECKS`, in their order.
    """
    sources = read(config=config)
    on_settings = _settings(sources)
    sources = replace(sources, problems=())  # told above
    groups = await asyncio.gather(
        _broker(sources, patience_s), _credentials(sources, patience_s), _keys(sources, patience_s)
    )
    return [*on_settings, *itertools.chain(*groups)]


def _settings(sources: Sources) -> list[Finding]:
    gateway = valid(sources, "gateway")
    looks_up = gateway is None or gateway.gateway.needs_database
    try:
        sources.settings((*_SECTIONS, *(("database", "cache") if looks_up else ())))
    except SettingsError as error:
        return [Finding(SETTINGS, State.WRONG, problem, "configcache settings") for problem in error.problems]
    return [Finding(SETTINGS, State.OK, "all that a gateway needs is there and valid")]


async def _broker(sources: Sources, patience_s: float) -> list[Finding]:
    settings = valid(sources, "broker")
    if settings is None:
        return skipped(_BROKER_CHECKS, BY_SETTINGS)
    return await gathered(_BROKER_CHECKS, partial(_examine_broker, settings.broker), timeout_s=patience_s)


async def _credentials(sources: Sources, patience_s: float) -> list[Finding]:
    gateway = valid(sources, "gateway")
    if gateway is not None and not gateway.gateway.needs_database:
        return skipped(credentials.CHECKS, "only Bearer is accepted")
    settings = valid(sources, "gateway", "database", "cache")
    if settings is None:
        return skipped(credentials.CHECKS, BY_SETTINGS)
    examine = partial(credentials.examine, settings.database, settings.cache)
    return await gathered(credentials.CHECKS, examine, timeout_s=patience_s)


async def _keys(sources: Sources, patience_s: float) -> list[Finding]:
    settings = valid(sources, "gateway")
    if settings is None:
        return skipped([KEYS], BY_SETTINGS)
    if not settings.gateway.accepts("bearer"):
        return skipped([KEYS], "Bearer is not accepted")
    return await gathered([KEYS], partial(_examine_keys, settings.gateway), timeout_s=patience_s)


async def _examine_broker(broker: BrokerSettings, report: Report) -> None:
    user = User(broker.url)
    try:
        async with Inspection(
            broker.url, timeout_s=broker.connect_timeout_s, heartbeat_s=broker.heartbeat_s
        ) as looking:
            report(product(looking, user))
            report(await _topology(looking))
            report(await _rights(looking, user))
            report(Finding(ALARMS, State.OK, "publishers are not blocked"))
    except BrokerBlocked as error:
        report(Finding(ALARMS, State.WRONG, str(error), "rabbitmq-diagnostics alarms"))
    except BrokerUnavailable as error:
        report(
            Finding(BROKER, State.WRONG, str(error), "start RabbitMQ, or set CONFIGCACHE_BROKER__URL right")
        )


async def _topology(looking: Inspection) -> Finding:
    findings = await looking.check_topology()
    missing = {finding.name for finding in findings if finding.problem is Problem.MISSING}
    if missing & _NEEDED_BY_PUBLISHING:
        names = ", ".join(sorted(missing & _NEEDED_BY_PUBLISHING))
        return Finding(TOPOLOGY_PRESENT, State.WRONG, f"missing: {names}", "configcache topology")
    return Finding(TOPOLOGY_PRESENT, State.OK, "what a command is published to is there")


async def _rights(looking: Inspection, user: User) -> Finding:
    if await looking.may_publish(COMMAND_EXCHANGE):
        return Finding(RIGHTS, State.OK, f"user {user.name} may publish commands")
    rights = PRODUCER_PERMISSIONS
    return Finding(
        RIGHTS,
        State.WRONG,
        f"user {user.name} may not write to {COMMAND_EXCHANGE}",
        user.ctl("set_permissions", user.name, rights.configure, rights.write, rights.read),
    )


async def _examine_keys(gateway: GatewaySettings, report: Report) -> None:
    place = gateway.jwt.jwks
    try:
        keys = parse(await key_source(place).read())
    except KeysUnavailable as error:
        report(Finding(KEYS, State.WRONG, str(error), "set gateway.jwt.jwks right, or mend what is there"))
    else:
        names = ", ".join(key.kid or "(without a kid)" for key in keys)
        report(Finding(KEYS, State.OK, f"{len(keys)} keys at {place}: {names}"))
