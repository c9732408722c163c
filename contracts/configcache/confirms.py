"""
Publish on one channel, and hear what the broker says of each publish.

One connection with one channel in confirm mode: the session of everybody who publishes. The driver opens both and looks
after them; what is published is written beneath it, and the broker's answers are read there, see ``line``. Who opens the
next session, and what is published again over it, is left to others.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import math
from collections.abc import Awaitable, Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NoReturn, Self

from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity

from configcache.connection import broker_errors, close_connection, connect, describe, is_blocked
from configcache.errors import BrokerUnavailable, PublishError, Refused, Unroutable
from configcache.frames import Returned, message, most_properties_bytes, publish_method
from configcache.line import PublishingLine
from configcache.stream import StreamFactory

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection
    from aiormq.abc import AbstractChannel

    from configcache.frames import Answer

__all__ = ["PublishingSession"]

_SET_UP: Final = "run `configcache topology` once to create what is missing"

_method = functools.lru_cache(maxsize=256)(publish_method)


class _Outcome(enum.Enum):
    """What became of a publish."""

    TAKEN = enum.auto()
    REFUSED = enum.auto()
    RETURNED = enum.auto()
    UNKNOWN = enum.auto()
    """The session has ended."""


class PublishingSession:
    """
    One connection with one channel, on which whatever is published is confirmed. The end of either has ended both.

    Any number of tasks may publish at once. Made by :meth:`open`; a :class:`~configcache.connection.SupervisedSession`.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        channel: AbstractChannel,
        line: PublishingLine,
        *,
        refusing_s: float = math.inf,
    ) -> None:
        self._connection = connection
        self._number = channel.number
        self._most_bytes = channel.connection.connection_tune.frame_max
        self._line = line
        self._refusing_s = refusing_s
        self._silence = _Silence()
        self._ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._last_tag = 0
        self._open: dict[int, asyncio.Future[_Outcome]] = {}
        """What is not answered yet, by its tag, in this order."""
        self._tags: dict[str, int] = {}
        """Their tags, by the message id: a returned message says nothing else of which it is."""
        line.watch(channel.number, self._take)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        timeout_s: float,
        heartbeat_s: int,
        refusing_s: float = math.inf,
        prepare: Callable[[AbstractConnection], Awaitable[None]] | None = None,
    ) -> Self:
        """
        Connect, and open the channel.

        Args:
            url: See :func:`~configcache.connection.addresses`.
            name: What the broker shows the connection as.
            timeout_s: For connecting, for each host; and then for opening the channel.
            heartbeat_s: A broker that falls silent is noticed after about three times this.
            refusing_s: A channel that has confirmed nothing for so long, and refuses, may be at fault itself: then a
                refusal ends the session, and is none.
            prepare: Called with the connection before the channel is opened, to see to the topology.

        Raises:
            BrokerUnavailable: For every failure, with a readable text.
        """
        lines = StreamFactory(PublishingLine)
        connection = await connect(
            url, name=name, timeout_s=timeout_s, heartbeat_s=heartbeat_s, transport_factory=lines
        )
        try:
            if prepare is not None:
                await prepare(connection)
            with broker_errors("cannot open a channel"):
                async with asyncio.timeout(timeout_s):
                    channel = await connection.channel(publisher_confirms=True)
                    driven = await channel.get_underlay_channel()
            session = cls(connection, driven, lines.stream, refusing_s=refusing_s)
            for part in (channel, connection):
                part.close_callbacks.add(session._note_closed)
        except BaseException:
            await close_connection(connection)
            raise
        return session

    async def publish(
        self,
        body: bytes,
        properties: bytes,
        *,
        message_id: str,
        exchange: str,
        routing_key: str,
        mandatory: bool = True,
    ) -> None:
        """
        Publish a message. When this returns, the broker has it: in every queue bound, and on disk if it is persistent.

        Cancelled, it may have arrived all the same.

        Args:
            body: The message's.
            properties: Property flags and properties, as on the wire.
            message_id: The one in *properties*. No other publish may ever have it.
            exchange: Where to.
            routing_key: And how to go on.
            mandatory: Whether it is a failure if no queue is bound.

        Raises:
            Unroutable: No queue is bound, and it is mandatory.
            Refused: The broker said no: to this message, or it has closed the channel because the exchange or a right is
                missing. Or it would have closed the connection, because the properties do not fit into a frame.
            BrokerUnavailable: The session has ended. The broker may have the message, or not.
        """
        while not (self._line.has_room.is_set() or self._ended.done()):
            await self._line.has_room.wait()
        if not self._line.is_open or self._ended.done():
            await asyncio.sleep(0)  # who tries again and again must leave the others their turn
            await self.wait_ended()
        if len(properties) > (most := most_properties_bytes(self._most_bytes)):
            raise Refused(
                f"the properties have {len(properties):,} bytes, and the broker takes {most:,} at most"
            )
        method = _method(self._number, exchange, routing_key, mandatory)
        match await self._answer(method, properties, body, message_id):
            case _Outcome.RETURNED:
                raise Unroutable(f"no queue is bound to exchange {exchange!r}; {_SET_UP}")
            case _Outcome.REFUSED:
                raise self._refusal()
            case _Outcome.UNKNOWN:
                await self.wait_ended()

    async def end_if_mute(self, after_s: float) -> None:
        """End the session if it has confirmed nothing for *after_s*, and no alarm is the reason: the next may do better."""
        if self._silence.lasted_s >= after_s and not await is_blocked(self._connection):
            self.end(TimeoutError())

    def end(self, cause: BaseException | None) -> None:
        """End the session. Safe to repeat: the first cause is the one."""
        if self._ended.done():
            return
        self._ended.set_result(cause)
        self._line.has_room.set()
        for tag in list(self._open):
            self._settle(tag, _Outcome.UNKNOWN)

    def _note_closed(self, _: object, cause: object) -> None:
        self.end(cause if isinstance(cause, BaseException) else None)  # the driver gives a class, too

    async def wait_ended(self) -> NoReturn:
        """Wait until the session has ended, and raise why, as an error of ours."""
        cause = await asyncio.shield(self._ended)
        raise _failure(cause) from cause

    async def close(self) -> None:
        """Close the connection. Safe to repeat."""
        await close_connection(self._connection)

    async def _answer(self, method: bytes, properties: bytes, body: bytes, message_id: str) -> _Outcome:
        """Send a publish, and wait for what becomes of it."""
        self._silence.asked()
        self._last_tag = tag = self._last_tag + 1
        answer: asyncio.Future[_Outcome] = asyncio.get_running_loop().create_future()
        self._open[tag] = answer
        self._tags[message_id] = tag
        frames = message(self._number, method, properties, body, most_bytes=self._most_bytes)
        self._line.send(frames, at_once=len(self._open) == 1)
        try:
            return await answer
        finally:
            self._open.pop(tag, None)
            self._tags.pop(message_id, None)

    def _take(self, answers: list[Answer]) -> None:
        for answer in answers:
            if isinstance(answer, Returned):
                self._take_return(answer)
                continue
            if answer.is_taken:
                self._silence.broken()
            outcome = _Outcome.TAKEN if answer.is_taken else _Outcome.REFUSED
            if answer.multiple:
                for tag in list(takewhile(answer.tag.__ge__, self._open)):
                    self._settle(tag, outcome)
            else:
                self._settle(answer.tag, outcome)

    def _take_return(self, returned: Returned) -> None:
        if returned.message_id is None:
            self.end(BrokerUnavailable("the broker returned a message that cannot be told from others"))
        elif (tag := self._tags.get(returned.message_id)) is not None:
            self._settle(tag, _Outcome.RETURNED)

    def _settle(self, tag: int, outcome: _Outcome) -> None:
        """Tell whoever waits for *tag*. Nobody may: given up, or returned and now confirmed."""
        answer = self._open.pop(tag, None)
        if answer is not None and not answer.done():
            answer.set_result(outcome)

    def _refusal(self) -> PublishError:
        if self._silence.lasted_s <= self._refusing_s:
            return Refused("the broker refused the message (nack): its queue is full or has no leader")
        # Not a refusal: whoever else waits for a confirm was not refused, and is to try again.
        failure = BrokerUnavailable("the channel has long confirmed nothing, and refuses")
        self.end(failure)
        return failure


class _Silence:
    """
    For how long a channel has confirmed none of the publishes it was asked to.

    A connection may live, heartbeats and all, while its channel never confirms again: the node that led the queue was
    killed, and RabbitMQ refuses (nack) or forgets whatever comes on this channel, although the queue has a new leader;
    or a firewall has forgotten the line. Only a new connection helps then.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None

    def asked(self) -> None:
        """Note that something was asked."""
        if self._since_s is None:
            self._since_s = asyncio.get_running_loop().time()

    def broken(self) -> None:
        """Note that something was confirmed."""
        self._since_s = None

    @property
    def lasted_s(self) -> float:
        """Seconds since the first question after which nothing was confirmed; 0 if there is none."""
        return 0.0 if self._since_s is None else asyncio.get_running_loop().time() - self._since_s


def _failure(cause: BaseException | None) -> PublishError:
    """What ended a session as an error of ours, with what to do about it."""
    match cause:
        case PublishError():
            return BrokerUnavailable(str(cause))
        case ChannelNotFoundEntity():
            return Refused(f"{describe(cause)}; {_SET_UP}")
        case ChannelAccessRefused():
            return Refused(f"{describe(cause)}; the user needs write permission on that exchange")
    return BrokerUnavailable(f"the connection was lost: {describe(cause)}")
