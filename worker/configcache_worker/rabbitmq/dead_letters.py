"""
Copy deliveries that can never succeed to the dead-letter exchange, with the reason written on them.

Published on a connection of its own, which a blocked publisher cannot take from the consumer. What a copy consists of
is in ``copies``; which deliveries go here, and what follows from an outcome, is the pipeline's business.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import structlog
from aio_pika.abc import AbstractConnection

from configcache.confirms import PublishingSession
from configcache.connection import RetryPolicy, Supervisor
from configcache.errors import BrokerUnavailable, PublishError, Unroutable
from configcache.topology import DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY
from configcache_worker.core.ports import Burial, Letter
from configcache_worker.rabbitmq.copies import encode_letter

log = structlog.stdlib.get_logger()

_MUTE_AFTER: Final = 5
"""A channel that has confirmed nothing for so many timeouts is given up. A slow disk has its say well before."""


class _Copy(NamedTuple):
    """What is published for a letter."""

    body: bytes
    properties: bytes
    message_id: str


class RabbitDeadLetters:
    """
    Publishes dead letters; a :class:`~configcache_worker.core.ports.DeadLetters`.

    Connects when first needed, and from then on keeps a connection.

    Args:
        url: The broker's.
        policy: Delays between attempts to connect.
        connect_timeout_s: For connecting.
        heartbeat_s: A silent broker is noticed after about three times this.
        confirm_timeout_s: How long :meth:`bury` waits, connecting included.
        in_flight: Most letters sent and not yet confirmed.
        prepare: Called with each new connection before anything is published, to see to the topology.
        clock: Unix seconds, for tests.
    """

    def __init__(
        self,
        *,
        url: str,
        policy: RetryPolicy,
        connect_timeout_s: float,
        heartbeat_s: int,
        confirm_timeout_s: float = 1.0,
        in_flight: int = 100,
        prepare: Callable[[AbstractConnection], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._heartbeat_s = heartbeat_s
        self._confirm_timeout_s = confirm_timeout_s
        self._in_flight = asyncio.Semaphore(in_flight)
        self._prepare = prepare
        self._clock = clock
        self._sessions = Supervisor[PublishingSession](
            name="dead letters", open=self._open_session, policy=policy, on_failure=self._note_failure
        )
        self._running: asyncio.Task[None] | None = None
        self._last_failure: BaseException | None = None

    def __repr__(self) -> str:
        return f"<RabbitDeadLetters {self._sessions!r}>"

    async def bury(self, letters: Sequence[Letter]) -> Sequence[Burial]:
        """Publish *letters*; see :class:`~configcache_worker.core.ports.DeadLetters`."""
        outcomes = [Burial.UNENCODABLE] * len(letters)
        copies = {}
        for number, letter in enumerate(letters):
            message_id = uuid.uuid4().hex
            encoded = encode_letter(letter, message_id=message_id, now_ms=int(self._clock() * 1000))
            if encoded is not None:
                outcomes[number] = Burial.UNAVAILABLE
                copies[number] = _Copy(letter.delivery.body, encoded, message_id)
        if copies:
            await self._publish(copies, outcomes)
        return outcomes

    async def stop(self) -> None:
        """Close the connection, if there is one. Letters are ``UNAVAILABLE`` from then on. Safe to repeat."""
        await self._sessions.stop()
        if self._running is not None:
            await self._running

    async def _publish(self, copies: Mapping[int, _Copy], outcomes: list[Burial]) -> None:
        """Publish all *copies* side by side, and mark in *outcomes* which of them the broker confirmed."""
        if self._running is None:
            self._running = asyncio.create_task(self._sessions.run(), name="dead letters")
        elif self._running.done():
            self._running.result()  # it died: so must whoever relies on it, or nobody would notice
        troubles: list[str] = []
        try:
            async with asyncio.timeout(self._confirm_timeout_s):
                session = await self._sessions.session()
                one = partial(self._publish_one, session, outcomes, troubles)
                await asyncio.gather(*(one(number, copy) for number, copy in copies.items()))
        except TimeoutError:
            troubles.append(self._why_no_answer())
        except BrokerUnavailable as error:
            troubles.append(str(error))
        if troubles:
            if (current := self._sessions.current) is not None:
                await current.end_if_mute(_MUTE_AFTER * self._confirm_timeout_s)
            unburied = outcomes.count(Burial.UNAVAILABLE)
            log.error(
                "letters.unavailable",
                count=unburied,
                error=troubles[0],
                consequence="they are held and tried again; good commands go on",
            )

    async def _publish_one(
        self,
        session: PublishingSession,
        outcomes: list[Burial],
        troubles: list[str],
        number: int,
        copy: _Copy,
    ) -> None:
        try:
            async with self._in_flight:
                await session.publish(
                    copy.body,
                    copy.properties,
                    message_id=copy.message_id,
                    exchange=DEAD_LETTER_EXCHANGE,
                    routing_key=DEAD_LETTER_ROUTING_KEY,
                )
        except PublishError as error:
            troubles.append(f"a dead letter was not confirmed: {error}")
            if isinstance(error, Unroutable):
                session.end(error)  # the next one sees to the queue
        else:
            outcomes[number] = Burial.CONFIRMED

    def _why_no_answer(self) -> str:
        if self._sessions.current is None and self._last_failure is not None:
            return str(self._last_failure)
        return f"no confirm within {self._confirm_timeout_s:g} s"

    async def _open_session(self) -> PublishingSession:
        return await PublishingSession.open(
            self._url,
            name="configcache worker dead letters",
            timeout_s=self._connect_timeout_s,
            heartbeat_s=self._heartbeat_s,
            prepare=self._prepare,
        )

    def _note_failure(self, attempt: int, delay_s: float, cause: BaseException) -> None:
        self._last_failure = cause
