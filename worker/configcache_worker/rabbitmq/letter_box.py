"""
Hold dead letters without taking them, and take out the ones that somebody has done with.

One consumer that answers nothing unless told to: whatever is not taken out is the broker's again when the box is closed,
or when whoever holds it dies. Deliveries come through the same tap as commands, since their properties are no more to be
trusted. What a letter says is read elsewhere, and what becomes of it is decided there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from aio_pika.abc import AbstractConnection

from configcache.connection import BrokerUnavailable, broker_errors
from configcache.topology import DEAD_LETTER_QUEUE
from configcache_worker.core.ports import Delivery, Settlement
from configcache_worker.rabbitmq.deliveries import Deliveries, DeliverySession

MOST_HELD: Final = 65_535
"""AMQP can't ask for more unanswered deliveries."""
MAX_HELD_BYTES: Final = 64 * 1024 * 1024
"""Letters that come while so much waits to be looked at are not kept."""


_GIVE_BACK_S: Final = 2.0
_POLL_S: Final = 0.01


class Counts(NamedTuple):
    """The dead-letter queue's, as of now."""

    ready: int
    """Letters that nobody holds."""
    consumers: int


class LetterBox:
    """
    The dead letters, as many at a time as one is ready to hold. An async context manager, to be iterated over once::

        async with LetterBox(url, name="me", most=1000, timeout_s=10, heartbeat_s=10) as box:
            async for delivery in box:
                ...
                await box.take_out(delivery)

    Gives what lay there when it was opened, in about the order in which it came, and ends. Letters that somebody else
    holds are not among them. Each that is taken out makes room for a further one.

    Args:
        url: The broker's.
        name: What the broker shows the connection as.
        most: Letters held at a time, 1 to :data:`MOST_HELD`.
        timeout_s: For connecting, and for each answer of the broker.
        heartbeat_s: A silent broker is noticed after about three times this.
        quiet_s: After so long without a letter, those that are missing are taken to be held by somebody else.
        max_held_bytes: See :data:`MAX_HELD_BYTES`.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        most: int,
        timeout_s: float,
        heartbeat_s: int,
        quiet_s: float = 3.0,
        max_held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        if not 1 <= most <= MOST_HELD:
            raise ValueError(f"most must be from 1 to {MOST_HELD:,}, not {most!r}")
        self.found = Counts(0, 0)
        """What was there before this box began to hold any of it."""
        self.handed_out = 0
        """Letters that were iterated over."""
        self.passed_over = 0
        """Letters that were not looked at because too much waited already."""
        self._most = most
        self._timeout_s = timeout_s
        self._quiet_s = quiet_s
        self._max_held_bytes = max_held_bytes
        self._connection: AbstractConnection | None = None
        self._session: DeliverySession | None = None
        self._ending: asyncio.Task[str] | None = None
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._received = 0
        self._taken_out = 0
        self._stirred = asyncio.Event()
        """Something came, or nothing will any more."""
        self._deliveries = Deliveries(
            url=url,
            queue=DEAD_LETTER_QUEUE,
            prefetch=most,
            connect_timeout_s=timeout_s,
            heartbeat_s=heartbeat_s,
            receive=self._receive,
            prepare=self._prepare,
            name=name,
        )

    async def __aenter__(self) -> Self:
        self._session = await self._deliveries.open()
        self._ending = asyncio.create_task(self._session.wait_ended(), name="end of the letter box")
        self._ending.add_done_callback(lambda _: self._stirred.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self._open()
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        if not (session.has_ended or is_interrupted):  # who is cancelled should not wait for others' sake
            await self._give_back(session)
        await session.close()
        if self._ending is not None:
            await self._ending

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while not self._is_done():
            await self.check()
            if self._waiting:
                delivery = self._waiting.popleft()
                self._waiting_bytes -= delivery.size
                self.handed_out += 1
                yield delivery
            elif not await self._stir():
                return

    async def check(self) -> None:
        """
        Make sure that what is held still is.

        Raises:
            BrokerUnavailable: The broker has taken all of it back, or is about to.
        """
        session = self._open()
        if session.has_ended:
            raise BrokerUnavailable(f"the dead letters are out of reach: {await session.wait_ended()}")

    async def take_out(self, delivery: Delivery) -> None:
        """
        Acknowledge *delivery*, alone, and wait until the broker must have heard it.

        Raises:
            BrokerUnavailable: Nobody knows whether it did: the letter may still lie there.
        """
        session = self._open()
        if session.settle(Settlement(rejects=(), ack_up_to=None, acks=(delivery.tag,))):
            await session.flush()
        await self.check()
        self._taken_out += 1

    @property
    def missing(self) -> int:
        """Letters that were there and did not come, although there was room: somebody else has them, or the broker is slow."""
        has_room = self._received - self._taken_out < self._most
        return self.found.ready - self._received if has_room else 0

    async def not_looked_at(self) -> int:
        """How many letters are in the queue now beside those that were iterated over, and beside what somebody else holds."""
        if self._connection is None:
            raise RuntimeError("use the letter box within `async with`")
        return (await self._count(self._connection)).ready + self.passed_over

    def _receive(self, _: DeliverySession, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if self._received == self.found.ready:
                return  # it came later than we did
            self._received += 1
            if self._waiting_bytes + delivery.size > self._max_held_bytes:
                self.passed_over += 1
            else:
                self._waiting.append(delivery)
                self._waiting_bytes += delivery.size
        self._stirred.set()

    def _is_done(self) -> bool:
        """Whether no further letter can come."""
        if self._waiting:
            return False
        return self._received == self.found.ready or self._received - self._taken_out >= self._most

    async def _stir(self) -> bool:
        """Wait until something has come, or nothing can any more; or nothing did for long, which is False."""
        self._stirred.clear()
        try:
            async with asyncio.timeout(self._quiet_s):
                await self._stirred.wait()
        except TimeoutError:
            return False
        return True

    async def _give_back(self, session: DeliverySession) -> None:
        """
        See to it that whoever looks next finds the letters there.

        The broker confirms a close before the queue has heard of it. When the queue has one consumer less, it has the
        letters too. If it takes long, they come back by themselves.
        """
        assert self._connection is not None
        await session.give_back()
        with contextlib.suppress(BrokerUnavailable, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S):
                while (await self._count(self._connection)).consumers > self.found.consumers:
                    await asyncio.sleep(_POLL_S)

    async def _prepare(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self.found = await self._count(connection)

    async def _count(self, connection: AbstractConnection) -> Counts:
        with broker_errors(f"cannot look at {DEAD_LETTER_QUEUE}"):
            # A channel of its own: asking for a queue that is not there closes it.
            async with connection.channel(publisher_confirms=False) as channel:
                underlay = await channel.get_underlay_channel()
                answer = await underlay.queue_declare(
                    DEAD_LETTER_QUEUE, passive=True, timeout=self._timeout_s
                )
        return Counts(answer.message_count or 0, answer.consumer_count or 0)

    def _open(self) -> DeliverySession:
        if self._session is None:
            raise RuntimeError("use the letter box within `async with`")
        return self._session
