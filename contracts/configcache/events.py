"""
News of what was cleared, for services that keep copies in their memory: the event, and a subscriber.

A worker publishes news where ``worker.publish_events`` is on. News is a hint: it is transient, nobody waits for it, and a worker that
is killed takes with it what it had not yet told. So copies need a limit of age, too. ``docs/cache.md`` tells more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from configcache.connection import (
    Supervisor,
    addresses,
    broker_errors,
    close_connection,
    connect,
    describe,
)
from configcache.errors import BrokerUnavailable
from configcache.retry import RetryPolicy
from configcache.topology import EVENT_EXCHANGE

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
    from aiormq.abc import AbstractChannel as UnderlayChannel

__all__ = ["MOST_ASSOCIATES", "ConfigurationCacheCleared", "NewsSubscriber", "binding_key", "routing_key"]

_log = logging.getLogger(__name__)

EVENT_TYPE: Final = "ConfigurationCacheCleared"
MOST_ASSOCIATES: Final = 1_000
"""An event that would name more says that all were cleared."""

_HEARTBEAT_S: Final = 10
_CONNECT_TIMEOUT_S: Final = 10.0


class ConfigurationCacheCleared(BaseModel):
    """
    Rows of one application and instance were deleted, and the deletion is committed.

    The names of the properties on the wire are those of the command. Properties that a reader does not know are passed over.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", validate_by_name=True, validate_by_alias=True
    )

    application: str = Field(alias="Application")
    instance: str = Field(alias="Instance")
    for_all_associates: bool = Field(default=False, alias="ForAllAssociates")
    associate_ids: tuple[int, ...] = Field(default=(), alias="AssociateIds", max_length=MOST_ASSOCIATES)
    """Whose rows, where it is not everybody's."""
    rows: Annotated[int, Field(ge=0)] | None = Field(default=None, alias="Rows")
    """How many were deleted; None where the worker can't tell, since one statement cleared several instances."""
    commands: int = Field(ge=0, alias="Commands")
    """How many commands this answers."""

    @model_validator(mode="after")
    def _names_somebody(self) -> Self:
        if self.for_all_associates == bool(self.associate_ids):
            raise ValueError("either ForAllAssociates is true, or AssociateIds names whose rows were cleared")
        return self

    @property
    def routing_key(self) -> str:
        """See :func:`routing_key`."""
        return routing_key(self.application, self.instance)

    def concerns(self, associate_id: int) -> bool:
        """Whether rows of this associate were cleared."""
        return self.for_all_associates or associate_id in self.associate_ids

    def encode(self) -> bytes:
        """The message's body."""
        return self.model_dump_json(by_alias=True).encode()


def routing_key(application: str, instance: str) -> str:
    """
    What news of *application* and *instance* are published with: ``cleared.<hash>.<hash>``.

    The names themselves may be longer than a routing key, and contain dots.
    """
    return f"cleared.{_word(application)}.{_word(instance)}"


def binding_key(application: str | None = None, instance: str | None = None) -> str:
    """What to bind a queue with, for news of these; None stands for all."""
    words = ("*" if name is None else _word(name) for name in (application, instance))
    return ".".join(["cleared", *words])


def _word(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class NewsSubscriber:
    """
    Tells what was cleared, as long as the block lasts::

        async with NewsSubscriber(url=..., on_cleared=drop_some, drop_all=drop_all):
            ...

    The broker need not be there when it starts. What was cleared while there was no connection is not told afterwards;
    instead *drop_all* is called whenever a connection has been made, the first one included.

    Both are called on the event loop and should not take long. One that raises is logged.

    Args:
        url: The broker's; the user needs the rights of a subscriber, see ``topology.SUBSCRIBER_PERMISSIONS``.
        on_cleared: Drops the copies that an event concerns.
        drop_all: Drops every local copy.
        application: Only news of this application; None for all.
        instance: Only news of this instance; None for all.
        app_id: The name of your service, on the connection as the broker shows it.
        policy: Delays between attempts to connect.

    Raises:
        ValueError: The URL is none.
    """

    def __init__(
        self,
        *,
        url: str,
        on_cleared: Callable[[ConfigurationCacheCleared], None],
        drop_all: Callable[[], None],
        application: str | None = None,
        instance: str | None = None,
        app_id: str | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        addresses(url)
        self._url = url
        self._on_cleared = on_cleared
        self._drop_all = drop_all
        self._binding_key = binding_key(application, instance)
        self._app_id = app_id
        self._supervisor = Supervisor(
            name="news", open=self._open_session, policy=policy, on_failure=self._note_failure
        )
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<NewsSubscriber of {self._binding_key}, {self._supervisor!r}>"

    @property
    def is_listening(self) -> bool:
        """Whether news come in. While they don't, copies may be out of date."""
        return self._supervisor.current is not None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._supervisor.run(), name="news")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._supervisor.stop()
        if self._running is not None:
            await self._running

    async def _open_session(self) -> _Session:
        connection = await connect(
            self._url,
            name=self._app_id or "configcache news",
            timeout_s=_CONNECT_TIMEOUT_S,
            heartbeat_s=_HEARTBEAT_S,
        )
        try:
            with broker_errors("cannot subscribe"):
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    session = await _Session.open(connection, self._binding_key, self._receive)
        except BaseException:
            await close_connection(connection)
            raise
        # Only now: what is cleared from here on is told, so what is dropped here can't go stale unnoticed.
        self._call(self._drop_all)
        return session

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        if message.type not in (None, EVENT_TYPE):
            return
        try:
            event = ConfigurationCacheCleared.model_validate_json(message.body)
        except ValidationError:
            _log.warning("news that can't be read: every local copy is dropped")
            self._call(self._drop_all)
        else:
            self._call(lambda: self._on_cleared(event))

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            _log.exception("a local copy could not be dropped")

    def _note_failure(self, attempt: int, delay_s: float, cause: BaseException) -> None:
        _log.warning("no news, attempt %d, next in %.3f s: %s", attempt, delay_s, cause)


class _Session:
    """One connection, one channel, one queue and its consumer. The end of any of them has ended all."""

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel) -> None:
        self._connection = connection
        self._ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        channel.close_callbacks.add(self._note_end)
        connection.close_callbacks.add(self._note_end)

    @classmethod
    async def open(
        cls,
        connection: AbstractConnection,
        binding: str,
        receive: Callable[[AbstractIncomingMessage], Awaitable[None]],
    ) -> Self:
        channel = connection.channel()
        await channel.initialize()
        session = cls(connection, channel)
        underlay: UnderlayChannel = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: session._note_end(None, None))
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        await queue.bind(EVENT_EXCHANGE, binding)
        await queue.consume(receive, no_ack=True)
        return session

    async def wait_ended(self) -> str:
        cause = await asyncio.shield(self._ended)
        raise BrokerUnavailable(f"the connection was lost: {describe(cause)}")

    async def close(self) -> None:
        await close_connection(self._connection)

    def _note_end(self, _: object, cause: BaseException | None) -> None:
        if not self._ended.done():
            self._ended.set_result(cause)
