"""
Look at a broker as a worker would use it: what it is, what this user may do there, how full the queues are.

Changes nothing. What follows from what is found is left to the caller.

AMQP has no question for a user's rights, but the broker's refusals can be told apart: a request that is wrong in a way
which the broker looks at only after the rights is refused either for the one or for the other. Such a request is never
carried out: no message is published or handed over, no consumer appears.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel
from aiormq.connection import DEFAULT_PORTS
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.commands import Basic

from configcache.connection import BrokerUnavailable, broker_errors, close_connection, connect, is_blocked
from configcache.topology import TOPOLOGY, Exchange, Queue
from configcache_worker.rabbitmq import declare
from configcache_worker.rabbitmq.declare import Finding, Problem

__all__ = ["BrokerBlocked", "Counts", "Finding", "Inspection", "Problem", "Product", "QueueMissing"]

_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 1.0  # a broker that has blocked us does not answer that either
_NO_INTEGER: Final = "probe"

_Request = Callable[[AbstractChannel], Awaitable[object]]


class BrokerBlocked(BrokerUnavailable):
    """An alarm (memory, disk) is on, and the broker reads no further from connections that publish."""


class QueueMissing(BrokerUnavailable):
    """There is no such queue."""


class Product(NamedTuple):
    """What the broker says it is."""

    name: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version's leading numbers, for comparing; empty where it has none."""
        numbers: list[int] = []
        for part in self.version.split("."):
            if not part.isdecimal():
                break
            numbers.append(int(part))
        return tuple(numbers)


class Counts(NamedTuple):
    """A queue's, as of now."""

    ready: int
    """Messages that wait. What a consumer holds does not count."""
    consumers: int


class Inspection:
    """
    One connection for looking. An async context manager, whose beginning raises BrokerUnavailable like all it can do.

    Args:
        url: As the worker has it.
        timeout_s: For connecting.
        heartbeat_s: A silent broker is noticed after about three times this.
        name: What the broker shows the connection as.
    """

    def __init__(
        self, url: str, *, timeout_s: float, heartbeat_s: int, name: str = "configcache doctor"
    ) -> None:
        self._url = url
        self._name = name
        self._timeout_s = timeout_s
        self._heartbeat_s = heartbeat_s
        self._connection: AbstractConnection | None = None

    async def __aenter__(self) -> Self:
        self._connection = await connect(
            self._url, name=self._name, timeout_s=self._timeout_s, heartbeat_s=self._heartbeat_s
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close_connection(self._open(), timeout_s=_CLOSE_TIMEOUT_S)

    def product(self) -> Product:
        """What answers."""
        transport = self._open().transport
        properties: Mapping[str, Any] = transport.connection.server_properties if transport else {}
        return Product(str(properties.get("product", "?")), str(properties.get("version", "?")))

    def address(self) -> str:
        """Host and port of the one that answers."""
        transport = self._open().transport
        if transport is None:
            return "?"
        url = transport.connection.url
        return f"{url.host_subcomponent}:{url.port or DEFAULT_PORTS[url.scheme]}"

    async def check_topology(self) -> list[Finding]:
        """What is missing; and what is different, as far as this user may compare."""
        return await declare.check(self._open())

    async def hidden(self) -> list[str]:
        """
        What of the topology this user may not even look at, so that it may be missing as well.

        Up to RabbitMQ 4.2 everybody may look; 4.3 shows what one has some right on.
        """
        entities: list[Exchange | Queue] = [*TOPOLOGY.exchanges, *TOPOLOGY.queues]
        return [entity.name for entity in entities if not await self._is_permitted(partial(_look_at, entity))]

    async def counts(self, queue: str) -> Counts | None:
        """
        How many messages and consumers *queue* has; None where this user may not look at it.

        Raises:
            QueueMissing: It is not there.
        """
        with broker_errors(f"cannot look at {queue}"):
            try:
                async with self._open().channel(publisher_confirms=False) as channel:
                    underlay = await channel.get_underlay_channel()
                    answer = await underlay.queue_declare(queue, passive=True, timeout=_TIMEOUT_S)
            except ChannelAccessRefused:
                return None
            except ChannelNotFoundEntity as error:
                raise QueueMissing(f"there is no queue {queue}") from error
        return Counts(answer.message_count or 0, answer.consumer_count or 0)

    async def may_consume(self, queue: str) -> bool:
        """Whether this user may read *queue*."""
        return await self._is_permitted(partial(_consume_wrongly, queue))

    async def may_publish(self, exchange: str) -> bool:
        """Whether this user may write to *exchange*."""
        return await self._is_permitted(partial(_publish_wrongly, exchange))

    async def may_declare(self, queue: Queue) -> bool:
        """Whether this user may configure *queue*, which must exist: to declare it again changes nothing."""
        return await self._is_permitted(partial(_declare_again, queue))

    async def _is_permitted(self, request: _Request) -> bool:
        with broker_errors("cannot find out this user's rights"):
            try:
                # With confirms, so that the answer to a publish is waited for.
                async with (
                    asyncio.timeout(_TIMEOUT_S),
                    self._open().channel(publisher_confirms=True) as channel,
                ):
                    await request(await channel.get_underlay_channel())
            except ChannelAccessRefused:
                return False
            except (ChannelPreconditionFailed, ChannelNotFoundEntity):
                return True  # wrong in another way, which was looked at after the rights
            except TimeoutError:
                if await is_blocked(self._open()):
                    raise BrokerBlocked("memory or disk: the broker takes nothing from publishers") from None
                raise
        return True

    def _open(self) -> AbstractConnection:
        if self._connection is None:
            raise RuntimeError("use the inspection within `async with`")
        return self._connection


async def _look_at(entity: Exchange | Queue, channel: AbstractChannel) -> None:
    match entity:
        case Exchange():
            await channel.exchange_declare(entity.name, passive=True, timeout=_TIMEOUT_S)
        case Queue():
            await channel.queue_declare(entity.name, passive=True, timeout=_TIMEOUT_S)


async def _consume_wrongly(queue: str, channel: AbstractChannel) -> None:
    # Should a broker take the argument after all, it hands over one message at most.
    await channel.basic_qos(prefetch_count=1, timeout=_TIMEOUT_S)
    await channel.basic_consume(queue, _ignore, arguments={"x-priority": _NO_INTEGER}, timeout=_TIMEOUT_S)


async def _ignore(_: object) -> None:
    return


async def _publish_wrongly(exchange: str, channel: AbstractChannel) -> None:
    properties = Basic.Properties(expiration=_NO_INTEGER)
    await channel.basic_publish(b"", exchange=exchange, properties=properties, timeout=_TIMEOUT_S)


async def _declare_again(queue: Queue, channel: AbstractChannel) -> None:
    await channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments), timeout=_TIMEOUT_S)
