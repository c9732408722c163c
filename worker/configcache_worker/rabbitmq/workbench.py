"""
Look into a virtual host, and put messages there, as an operator or a foreign client would.

For tools and tests; the worker itself needs none of this. Dead letters are read through the same tap as commands, since
their properties are no more to be trusted.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from aio_pika.abc import AbstractConnection
from pamqp.commands import Basic

from configcache.connection import broker_errors, close_connection, connect
from configcache.topology import COMMAND_EXCHANGE, COMMAND_ROUTING_KEY, DEAD_LETTER_QUEUE
from configcache.wire import Reason
from configcache_worker.core.ports import Delivery
from configcache_worker.rabbitmq.declare import declare
from configcache_worker.rabbitmq.deliveries import Deliveries, DeliverySession
from configcache_worker.rabbitmq.properties import UnreadableProperties, decode
from configcache_worker.rabbitmq.reading import Envelope

_HEARTBEAT_S: Final = 10


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in the dead-letter queue."""

    reason: str
    """The word on it. Where the broker dead-lettered its own copy there is none: then ``unreadable-properties``."""
    detail: str | None
    body: bytes | None
    """As it was published; None if it is too long to be looked at."""
    properties: Basic.Properties | None
    """None if they can't be decoded."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """Its headers, empty if they can't be decoded."""
        return (self.properties and self.properties.headers) or {}


class Workbench:
    """A connection to one virtual host, for looking and for publishing anything at all. An async context manager."""

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._connection: AbstractConnection | None = None

    async def __aenter__(self) -> Self:
        self._connection = await connect(
            self._url, name="configcache workbench", timeout_s=self._timeout_s, heartbeat_s=_HEARTBEAT_S
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close_connection(self._open())

    async def declare(self) -> None:
        """Declare the topology."""
        await declare(self._open(), may_declare=True)

    async def depth(self, queue: str) -> int:
        """Messages in *queue* that are ready for a consumer. What a consumer holds does not count."""
        with broker_errors(f"cannot look at {queue}"):
            # A channel of its own: asking for a queue that is not there closes it.
            async with self._open().channel(publisher_confirms=False) as channel:
                underlay = await channel.get_underlay_channel()
                answer = await underlay.queue_declare(queue, passive=True, timeout=self._timeout_s)
        return answer.message_count or 0

    async def publish(
        self,
        body: bytes,
        properties: Basic.Properties | None = None,
        *,
        exchange: str = COMMAND_EXCHANGE,
        routing_key: str = COMMAND_ROUTING_KEY,
    ) -> None:
        """
        Publish *body* as it is, and wait until the broker has it in a queue.

        Args:
            body: Any bytes.
            properties: Any that the driver can encode. None for what the barest client sends.
            exchange: Where to.
            routing_key: Which queue.
        """
        properties = properties or Basic.Properties()
        if properties.message_id is None:
            properties.message_id = uuid.uuid4().hex  # the driver matches returned messages by it
        with broker_errors("cannot publish"):
            async with self._open().channel(on_return_raises=True) as channel:
                underlay = await channel.get_underlay_channel()
                await underlay.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=properties,
                    mandatory=True,
                    timeout=self._timeout_s,
                )

    async def dead_letters(self, *, most: int = 1000, timeout_s: float = 10.0) -> list[DeadLetter]:
        """
        Look at the dead letters, up to *most*, which is 65,535 at the highest; all of them stay in the queue.

        Raises:
            TimeoutError: Fewer came than the queue said it has; somebody else may be looking.
        """
        count = min(await self.depth(DEAD_LETTER_QUEUE), most)
        if not count:
            return []
        found: list[Delivery] = []
        complete = asyncio.Event()

        def receive(_: DeliverySession, deliveries: list[Delivery]) -> None:
            found.extend(deliveries)
            if len(found) >= count:
                complete.set()

        session = await Deliveries(
            url=self._url,
            queue=DEAD_LETTER_QUEUE,
            prefetch=count,
            connect_timeout_s=self._timeout_s,
            heartbeat_s=_HEARTBEAT_S,
            receive=receive,
            name="configcache workbench",
        ).open()
        try:
            async with asyncio.timeout(timeout_s):
                await complete.wait()
        finally:
            await session.close()
        return [_dead_letter(delivery) for delivery in found]

    def _open(self) -> AbstractConnection:
        if self._connection is None:
            raise RuntimeError("use the workbench within `async with`")
        return self._connection


def _dead_letter(delivery: Delivery) -> DeadLetter:
    envelope = delivery.envelope
    assert isinstance(envelope, Envelope)
    try:
        properties = decode(envelope.header)
    except UnreadableProperties:
        properties = None
    headers = (properties and properties.headers) or {}
    return DeadLetter(
        reason=str(headers.get("dead-letter-reason", Reason.UNREADABLE_PROPERTIES)),
        detail=str(headers["dead-letter-detail"]) if "dead-letter-detail" in headers else None,
        body=None if delivery.refusal is Reason.BODY_TOO_LARGE else delivery.body,
        properties=properties,
    )
