"""
Declare the topology, or find out what is missing or different.

Nothing is changed where anything differs, nothing is ever deleted, and a user without the right to declare
only looks. Each question is asked on a channel of its own, because the broker closes the channel to say no.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed

from configcache.connection import broker_errors, describe
from configcache.topology import TOPOLOGY, Binding, Exchange, Queue

Entity = Exchange | Queue
_Question = Callable[[AbstractChannel], Awaitable[object]]


class Problem(enum.Enum):
    """What can be wrong with an exchange or a queue."""

    MISSING = "missing"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Report:
    """What a look at the broker found, and what it could not find out."""

    findings: Sequence[Finding] = ()
    """What is missing or different."""
    hidden: Sequence[str] = ()
    """What this user may not even look at, so that it may be missing as well. Before RabbitMQ 4.3 there is no such."""
    uncompared: Sequence[str] = ()
    """What this user may not declare, so that its arguments could not be compared."""
    created: Sequence[Entity] = ()
    """What was created, in this order; bindings aside."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something on the broker that is not as it must be."""

    name: str
    problem: Problem
    text: str
    """For the operator: what is wrong, in the broker's words where it said any."""


class TopologyError(Exception):
    """The topology on the broker is not as it must be."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__("; ".join(finding.text for finding in findings))
        self.findings = tuple(findings)


class TopologyMismatch(TopologyError):
    """Something exists with other arguments. Waiting does not help: somebody must delete or rename it."""


class TopologyMissing(TopologyError):
    """Something does not exist, and we may not declare it. It can be waited for."""

    @property
    def names(self) -> list[str]:
        """What is missing."""
        return [finding.name for finding in self.findings]


async def declare(connection: AbstractConnection, *, may_declare: bool) -> None:
    """
    Make sure that the topology is there. Safe to repeat, and for many to do at once.

    Where all exists, nothing is created but missing bindings. Without the right to declare, or if
    *may_declare* is false, it is only looked for.

    Raises:
        TopologyMismatch: Something exists with other arguments. Nothing was created.
        TopologyMissing: Something does not exist and may not be declared.
        BrokerUnavailable: The broker did not answer.
    """
    if may_declare:
        await create(connection)
        return
    with broker_errors("cannot look at the topology"):
        missing, _ = await _missing(connection)
    if missing:
        raise TopologyMissing(missing)


async def create(connection: AbstractConnection) -> Report:
    """
    Create what is missing, as :func:`declare` does, and raise as it does.

    Returns:
        What was created and what could not be found out. There are no findings.
    """
    with broker_errors("cannot look at the topology"):
        missing, hidden = await _missing(connection)
        different, uncompared = await _different(connection, _present(missing))
        if different:
            raise TopologyMismatch(different)
        created, still_missing = await _create(connection, missing)
    if still_missing:
        raise TopologyMissing(still_missing)
    return Report(hidden=hidden, uncompared=uncompared, created=created)


async def check(connection: AbstractConnection) -> list[Finding]:
    """What :func:`examine` finds missing or different. Empty: nothing is known to be wrong."""
    return list((await examine(connection)).findings)


async def examine(connection: AbstractConnection) -> Report:
    """
    Find out what is missing or different, without creating anything.

    Bindings cannot be asked for over AMQP. Without the right to declare, arguments cannot either.

    Raises:
        BrokerUnavailable: The broker did not answer.
    """
    with broker_errors("cannot look at the topology"):
        missing, hidden = await _missing(connection)
        different, uncompared = await _different(connection, _present(missing))
    return Report(findings=[*missing, *different], hidden=hidden, uncompared=uncompared)


def _entities() -> list[Entity]:
    """
    All exchanges and queues in the order of creation.

    What dead-letters to an exchange comes after it, and the dead-letter queue before both, so that the
    commands' queue never exists without a way out for what cannot be applied.
    """
    dead_lettering = [queue for queue in TOPOLOGY.queues if "x-dead-letter-exchange" in queue.arguments]
    others = [queue for queue in TOPOLOGY.queues if queue not in dead_lettering]
    return [*others, *TOPOLOGY.exchanges, *dead_lettering]


def _present(missing: Sequence[Finding]) -> list[Entity]:
    absent = {finding.name for finding in missing}
    return [entity for entity in _entities() if entity.name not in absent]


async def _missing(connection: AbstractConnection) -> tuple[list[Finding], list[str]]:
    """What is missing, and the names of what we may not even look at."""
    findings, hidden = [], []
    for entity in _entities():
        try:
            await _ask(connection, partial(_look_for, entity))
        except ChannelNotFoundEntity as error:
            findings.append(Finding(entity.name, Problem.MISSING, describe(error)))
        except ChannelAccessRefused:
            hidden.append(entity.name)  # taken to exist, or nobody with least rights could start
    return findings, hidden


async def _different(
    connection: AbstractConnection, existing: Sequence[Entity]
) -> tuple[list[Finding], list[str]]:
    """
    Compare by declaring what *existing* already has: a no-op where it is equal, an error where it is not.

    Returns:
        What is different, and the names of what could not be compared.
    """
    findings, uncompared = [], []
    for entity in existing:
        try:
            await _ask(connection, partial(_declare, entity))
        except ChannelPreconditionFailed as error:
            findings.append(Finding(entity.name, Problem.DIFFERENT, describe(error)))
        except ChannelAccessRefused:
            uncompared.append(entity.name)
    return findings, uncompared


async def _create(
    connection: AbstractConnection, missing: Sequence[Finding]
) -> tuple[list[Entity], list[Finding]]:
    """Create what is *missing*, and the bindings, as far as our rights go. What was created, and what is missing still."""
    created, still_missing = [], []
    absent = {finding.name: finding for finding in missing}
    for entity in _entities():
        if entity.name in absent:
            try:
                await _ask(connection, partial(_declare, entity))
                created.append(entity)
            except ChannelAccessRefused:
                still_missing.append(absent[entity.name])
    if not still_missing:
        await _bind(connection)
    return created, still_missing


async def _bind(connection: AbstractConnection) -> None:
    for binding in TOPOLOGY.bindings:
        try:
            await _ask(connection, partial(_declare_binding, binding))
        except ChannelAccessRefused:
            continue  # whoever declared the rest has bound it as well


async def _ask(connection: AbstractConnection, question: _Question) -> None:
    async with connection.channel(publisher_confirms=False) as channel:
        await question(await channel.get_underlay_channel())


async def _look_for(entity: Entity, channel: AbstractChannel) -> None:
    match entity:
        case Exchange():
            await channel.exchange_declare(entity.name, passive=True)
        case Queue():
            await channel.queue_declare(entity.name, passive=True)


async def _declare(entity: Entity, channel: AbstractChannel) -> None:
    match entity:
        case Exchange():
            await channel.exchange_declare(entity.name, exchange_type=entity.type, durable=True)
        case Queue():
            await channel.queue_declare(entity.name, durable=True, arguments=dict(entity.arguments))


async def _declare_binding(binding: Binding, channel: AbstractChannel) -> None:
    await channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
