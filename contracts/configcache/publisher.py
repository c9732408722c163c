"""
Publish commands: confirmed by the broker and routed to a queue, or a typed error within a bounded time.

Producers declare nothing: exchange and queue come from ``configcache topology``. Nothing is kept here for later; a
producer that must not lose a command to its own crash writes it into its own transaction, see ``outbox``.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable
from operator import length_hint
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from configcache import trace, wire
from configcache.confirms import PublishingSession
from configcache.connection import Supervisor, addresses
from configcache.errors import BrokerUnavailable, NotAllPublished, PublishError, Refused, Unroutable
from configcache.properties import CommandProperties
from configcache.retry import Retries, RetryPolicy
from configcache.topology import COMMAND_EXCHANGE, COMMAND_ROUTING_KEY

if TYPE_CHECKING:
    from configcache.command import ClearConfigurationCache

__all__ = [
    "BrokerUnavailable",
    "NotAllPublished",
    "PublishError",
    "Publisher",
    "Refused",
    "Retries",
    "Unroutable",
]

_log = logging.getLogger(__name__)

# A broker that has fallen silent is noticed after three of these.
_HEARTBEAT_S: Final = 10

_ONCE: Final = Retries()
_USUAL: Final = RetryPolicy()


class Publisher:
    """
    Publishes commands over one connection, which it keeps alive in the background::

        async with Publisher(url="amqp://user:password@broker/vhost") as publisher:
            await publisher.publish(ClearConfigurationCache.for_all("WebClient", "Web"))

    Keep one for the life of the service. Any number of tasks may publish at once, all over one channel. The broker
    need not be there when it starts.

    Args:
        url: The broker's; a cluster's may name several hosts: ``amqp://user:password@one,two:5673/vhost``.
        timeout_s: The longest one attempt to publish takes, connecting and waiting for others included.
        app_id: The name of your service: on each message, and on the connection as the broker shows it.
        retries: What is done after an attempt has failed. By default nothing: the caller gets the error at once.
        max_in_flight: Most commands sent and not yet confirmed; further ones wait for their turn.
        reconnect: How long to wait before connecting again.
        tracer: Follows each publish, and gives the trace context to go with it; see :mod:`configcache.spans`.

    Raises:
        ValueError: The URL is none, a number is not positive, or *app_id* is longer than 255 bytes.
    """

    def __init__(
        self,
        *,
        url: str,
        timeout_s: float = 5.0,
        app_id: str | None = None,
        retries: Retries = _ONCE,
        max_in_flight: int = 500,
        reconnect: RetryPolicy = _USUAL,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self._hosts = len(addresses(url))
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, not {timeout_s!r}")
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {max_in_flight!r}")
        self._url = url
        self._timeout_s = timeout_s
        self._app_id = app_id
        self._properties = CommandProperties(app_id)
        self._retries = retries
        self._tracer = tracer
        self._max_in_flight = max_in_flight
        self._turns = asyncio.Semaphore(max_in_flight)
        # A channel that has confirmed nothing for so long, and refuses, may be at fault itself. As long as the longest delay
        # between two sessions, so that the next one is opened at once: if the queue really is full, callers hear no less.
        self._refusing_s = reconnect.longest_s
        self._supervisor = Supervisor(
            name="publisher", open=self._open_session, policy=reconnect, on_failure=self._note_failure
        )
        self._running: asyncio.Task[None] | None = None
        self._last_failure: BaseException | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        hosts = ",".join(str(address.host) for address in addresses(self._url))
        return f"<Publisher to {hosts!r}, {self._supervisor!r}>"

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._supervisor.run(), name="publisher")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closed = True
        await self._supervisor.stop()
        if self._running is not None:
            await self._running

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now, as far as anybody has noticed."""
        return self._supervisor.current is not None

    async def wait_connected(self) -> None:
        """
        Wait, without a limit of time, until there is a connection.

        Raises:
            BrokerUnavailable: There will be none: the publisher has been closed, or its background task has ended.
        """
        self._check_open()
        await self._supervisor.session()

    async def publish(
        self,
        command: ClearConfigurationCache,
        *,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> None:
        """
        Publish *command*. When this returns, the broker has it on disk, in a queue.

        If the connection is lost meanwhile, it is published again over the next one while time is left. So it may
        arrive twice, and after an error it may have arrived all the same: clearing twice does no harm.

        Args:
            command: What to clear.
            traceparent: W3C trace context to go with the message; one that is malformed is left out. A tracer makes its own
                from it.
            tracestate: The vendors' part of it.

        Raises:
            Unroutable: No queue is bound. The set-up is missing.
            Refused: The broker said no: a right, the exchange or room is missing.
            BrokerUnavailable: No answer within the timeout. The text says what is known about the reason.
        """
        self._check_open()
        body = wire.encode(command)
        if self._tracer is None:
            return await self._publish(body, trace.headers(traceparent, tracestate))
        with self._tracer.sending(traceparent, tracestate) as context:
            return await self._publish(body, dict(context))

    async def _publish(self, body: bytes, context: dict[str, str]) -> None:
        for delay_s in self._retries.delays_s():
            try:
                return await self._attempt(body, context)
            except self._retries.on:
                if self._is_closed or self._supervisor.has_ended:
                    raise
                await asyncio.sleep(delay_s)
        return await self._attempt(body, context)

    async def publish_many(self, commands: Iterable[ClearConfigurationCache]) -> None:
        """
        Publish *commands*, up to ``max_in_flight`` of them at a time. When this returns, the broker has all of them.

        The first that meets ``BrokerUnavailable`` ends it: those not yet begun are not tried, so that a dead broker
        costs the time of one command and not of all. The rest of *commands* is then only read, to be named in
        ``failed``: give it no generator without an end.

        Raises:
            NotAllPublished: Some failed, or were not tried; ``failed`` holds each of them with its error.
        """
        self._check_open()
        batch = _Batch(commands)
        lanes = [
            asyncio.create_task(self._publish_in_turn(batch), name="publish_many")
            for _ in range(min(self._max_in_flight, length_hint(commands, self._max_in_flight)))
        ]
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
        if batch.failed:
            raise NotAllPublished(batch.failed, of=batch.count) from batch.failed[0][1]

    def _check_open(self) -> None:
        if self._running is None:
            raise RuntimeError("use the publisher within `async with`")

    async def _publish_in_turn(self, batch: _Batch) -> None:
        for command in batch.commands:
            batch.count += 1
            if batch.given_up is not None:
                batch.failed.append((command, batch.given_up))
                await asyncio.sleep(0)  # what is left may be much, and others have a turn, too
                continue
            try:
                await self.publish(command)
            except PublishError as error:
                batch.failed.append((command, error))
                if isinstance(error, BrokerUnavailable):
                    batch.given_up = error

    async def _attempt(self, body: bytes, context: dict[str, str]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                await self._publish_until_confirmed(body, context)
        except TimeoutError as error:
            failure = self._out_of_time()
            if (session := self._supervisor.current) is not None:
                await session.end_if_mute(self._timeout_s / 2)
            raise failure from error

    async def _publish_until_confirmed(self, body: bytes, context: dict[str, str]) -> None:
        session = await self._supervisor.session()
        while True:
            # Unique for every publish: returned messages are told apart by nothing else.
            message_id = uuid.uuid4().hex
            properties = self._properties.encode(
                message_id=message_id, published_at_ms=time.time_ns() // 1_000_000, trace=context
            )
            try:
                return await session.publish(
                    body,
                    properties,
                    message_id=message_id,
                    exchange=COMMAND_EXCHANGE,
                    routing_key=COMMAND_ROUTING_KEY,
                )
            except BrokerUnavailable:
                session = await self._supervisor.session(after=session)

    def _out_of_time(self) -> PublishError:
        """Tell why no answer came: that there is no connection and why, or that the broker is silent."""
        failure = self._last_failure
        if self._supervisor.current is not None:
            return BrokerUnavailable(
                f"the broker did not confirm the command within {self._timeout_s:g} s;"
                " it may be blocked by an alarm, or unreachable"
            )
        if failure is None:
            return BrokerUnavailable(
                f"no connection within {self._timeout_s:g} s; the broker has not answered yet"
            )
        kind = Refused if isinstance(failure, Refused) else BrokerUnavailable
        return kind(f"no connection within {self._timeout_s:g} s; the last attempt: {failure}")

    async def _open_session(self) -> PublishingSession:
        return await PublishingSession.open(
            self._url,
            name=self._app_id or "configcache publisher",
            timeout_s=self._timeout_s / self._hosts,  # a silent one leaves time for the others
            heartbeat_s=_HEARTBEAT_S,
            refusing_s=self._refusing_s,
        )

    def _note_failure(self, attempt: int, delay_s: float, cause: BaseException) -> None:
        self._last_failure = cause
        _log.warning("broker unavailable, attempt %d, next in %.2f s: %s", attempt, delay_s, cause)


class _Batch:
    """What the lanes of one :meth:`Publisher.publish_many` share."""

    def __init__(self, commands: Iterable[ClearConfigurationCache]) -> None:
        self.commands = iter(commands)
        self.count = 0
        self.failed: list[tuple[ClearConfigurationCache, PublishError]] = []
        self.given_up: BrokerUnavailable | None = None
