"""
Consume a queue, one session at a time.

A session is one connection with one channel and one consumer on it. Whatever ends one of the three has ended
the session, whole and for good: its deliveries are the broker's again, its tags mean nothing any more. When
to open the next is left to the supervisor, what becomes of a delivery to the pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage

from configcache.connection import BrokerUnavailable, broker_errors, connect
from configcache.stream import StreamFactory
from configcache.topology import COMMAND_QUEUE
from configcache_worker.core.ports import Delivery, Settlement
from configcache_worker.rabbitmq.tap import DeliveryTap

CLOSE_TIMEOUT_S: Final = 3.0
"""How long the broker may take to say goodbye before the connection is dropped."""
FLUSH_GRACE_S: Final = 0.1
"""How long a quorum queue may take to commit acknowledgements that were held back."""

_ENDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "connection-lost": ("the broker closed the connection", "the connection was "),
        "channel-closed": ("the broker closed the channel", "the channel was closed"),
        "consumer-cancelled": ("the broker cancelled the consumer",),
        "dead-letters-unavailable": ("the dead letters ",),
    }
)
"""Stable words, and how the reasons begin that they stand for."""
OTHER_END: Final = "other"
END_CAUSES: Final = (*_ENDS, OTHER_END)
"""What ends a session, in stable words for metrics. A consumer timeout closes the channel; from RabbitMQ 4.3 on it cancels."""

_ANSWERS_SENT_AT_ONCE: Final = 32
_CONSUMER_TAG: Final = "configcache"
# Frame type, channel, size, class, method, delivery tag, flag, frame end.
_ANSWER = struct.Struct(">BHIHHQBB")
_ANSWER_BYTES: Final = 13
_BASIC, _ACK, _REJECT = 60, 80, 90


class DeliverySession:
    """
    One connection, one channel, one consumer. Made by :meth:`Deliveries.open`.

    The pipeline sees it as a :class:`~configcache_worker.core.ports.Session`, the supervisor as its session.
    """

    def __init__(
        self,
        *,
        connection: AbstractConnection,
        tap: DeliveryTap,
        channel: AbstractChannel,
        prefetch: int,
        timeout_s: float,
        receive: Callable[[DeliverySession, list[Delivery]], None],
    ) -> None:
        self._connection = connection
        self._tap = tap
        self._channel = channel
        self._prefetch = prefetch
        self._timeout_s = timeout_s
        self._receive = receive
        self._answers = 0
        """Frames that settle something, written since the last flush."""
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        state = self._ended.result() if self._ended.done() else "consuming"
        return f"<DeliverySession on {self._connection}: {state}>"

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it counts any more."""
        return self._ended.done() or not self._tap.is_writable

    def settle(self, settlement: Settlement) -> bool:
        """Write to the session's own channel; see :class:`~configcache_worker.core.ports.Session`."""
        if self.has_ended:
            return False
        frames = encode_settlement(settlement, self._channel.number)
        self._tap.write(frames)
        self._answers += len(frames) // _ANSWER.size
        return True

    def pause(self) -> None:
        """Read no more from the connection for now."""
        self._tap.pause()

    def resume(self) -> None:
        """Go on reading."""
        self._tap.resume()

    def end(self, reason: str) -> None:
        """
        Take no more deliveries and settle none. Safe to repeat.

        Whoever waits for the end, the supervisor, then closes the connection.
        """
        if not self._ended.done():
            self._ended.set_result(reason)

    async def wait_ended(self) -> str:
        """Wait until the session has ended, and say why."""
        return await asyncio.shield(self._ended)

    async def cancel_consumer(self) -> None:
        """
        Ask the broker to send no more. What arrives until it confirms still counts.

        If the broker does not confirm, the session has ended.
        """
        self.resume()  # or the broker's answer would not be read
        with self._ending_on_failure("cancelling the consumer failed"):
            await self._channel.basic_cancel(_CONSUMER_TAG, timeout=self._timeout_s)

    async def flush(self) -> None:
        """
        See to it that all that was settled reaches the queue, by waiting for an answer on the same channel.

        Without one, acknowledgements written just before the close are lost. One answer is not enough for
        many of them: the broker's channel sends 32 to a quorum queue, holds the others back until it hears
        from the queue, and forgets them when it is closed. So they get a moment and a second answer. One that
        is lost all the same is a command done twice.

        If no answer comes, the session has ended.
        """
        with self._ending_on_failure("flushing acknowledgements failed"):
            await self._round_trip()
            if self._answers > _ANSWERS_SENT_AT_ONCE:
                await asyncio.sleep(FLUSH_GRACE_S)
                await self._round_trip()
            self._answers = 0

    async def give_back(self) -> None:
        """
        End the session by closing its channel alone; the connection stays. In bounded time.

        What is not settled is the broker's again a moment later: its answer does not wait for the queue.
        """
        self.end("closed")
        with contextlib.suppress(BrokerUnavailable), broker_errors("closing the channel"):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._channel.close()

    async def close(self) -> None:
        """End the session and close its connection in bounded time. Safe to repeat."""
        self.end("closed")
        await close_tapped(self._connection, self._tap)

    async def consume(self, queue: str) -> None:
        """
        Begin to receive what is in *queue*. To be called once.

        Raises:
            BrokerUnavailable: The broker did not let us, or the connection was lost.
        """
        self._channel.closing.add_done_callback(lambda _: self.end("the channel was closed"))
        self._channel.connection.closing.add_done_callback(lambda _: self.end("the connection was closed"))
        self._tap.watch(self._channel.number, _CONSUMER_TAG, sink=self._take, on_ended=self.end)
        with broker_errors("cannot consume"):
            await self._round_trip()  # which sets the prefetch
            await self._channel.basic_consume(
                queue, self._refuse, consumer_tag=_CONSUMER_TAG, timeout=self._timeout_s
            )

    async def _round_trip(self) -> None:
        await self._channel.basic_qos(prefetch_count=self._prefetch, timeout=self._timeout_s)

    def _take(self, deliveries: list[Delivery]) -> None:
        if not self._ended.done():
            self._receive(self, deliveries)

    async def _refuse(self, message: DeliveredMessage) -> None:
        """aiormq's own consumer callback. The tap lets nothing through to it, unless the stream is broken."""
        self.end("a delivery passed the tap")

    @contextlib.contextmanager
    def _ending_on_failure(self, failure: str) -> Iterator[None]:
        try:
            with broker_errors(failure):
                yield
        except BrokerUnavailable as error:
            self.end(str(error))


class Deliveries:
    """
    Opens sessions that consume a queue: the commands', or the dead letters' to look at them.

    Args:
        url: The broker's.
        prefetch: Unsettled deliveries the broker lets us hold.
        connect_timeout_s: For connecting, and for each answer of the broker.
        heartbeat_s: A silent broker is noticed after about three times this.
        receive: Called with the deliveries of each read. Synchronous, between two reads of the socket.
        prepare: Called with each new connection before anything is consumed, to see to the topology.
        queue: What to consume.
        name: What the broker shows the connection as.
    """

    def __init__(
        self,
        *,
        url: str,
        prefetch: int,
        connect_timeout_s: float,
        heartbeat_s: int,
        receive: Callable[[DeliverySession, list[Delivery]], None],
        prepare: Callable[[AbstractConnection], Awaitable[None]] | None = None,
        queue: str = COMMAND_QUEUE,
        name: str = "configcache worker",
    ) -> None:
        self._url = url
        self._prefetch = prefetch
        self._timeout_s = connect_timeout_s
        self._heartbeat_s = heartbeat_s
        self._receive = receive
        self._prepare = prepare
        self._queue = queue
        self._name = name

    async def open(self) -> DeliverySession:
        """
        Connect, prepare and consume. Deliveries may be received before this returns.

        Raises:
            BrokerUnavailable: Any of the three failed at the broker or on the way to it.
            Exception: Whatever *prepare* raises.
        """
        taps = StreamFactory(DeliveryTap)
        connection = await connect(
            self._url,
            name=self._name,
            timeout_s=self._timeout_s,
            heartbeat_s=self._heartbeat_s,
            transport_factory=taps,
        )
        try:
            if self._prepare is not None:
                await self._prepare(connection)
            session = await self._session_on(connection, taps.stream)
            await session.consume(self._queue)
        except BaseException:
            await close_tapped(connection, taps.stream)
            raise
        return session

    async def _session_on(self, connection: AbstractConnection, tap: DeliveryTap) -> DeliverySession:
        with broker_errors("cannot open a channel"):
            # Without confirms: nothing is published here.
            channel = await connection.channel(publisher_confirms=False)
            underlay = await channel.get_underlay_channel()
        return DeliverySession(
            connection=connection,
            tap=tap,
            channel=underlay,
            prefetch=self._prefetch,
            timeout_s=self._timeout_s,
            receive=self._receive,
        )


def end_cause(reason: str) -> str:
    """What ended a session, as one of :data:`END_CAUSES`, from the reason that it gave."""
    return next((cause for cause, beginnings in _ENDS.items() if reason.startswith(beginnings)), OTHER_END)


def encode_settlement(settlement: Settlement, channel: int) -> bytes:
    """
    The frames that settle, in an order that the broker accepts.

    Rejects come first, since acknowledging up to a tag settles everything below it.
    """
    frames = [_answer(channel, _REJECT, tag) for tag in settlement.rejects]
    if settlement.ack_up_to is not None:
        frames.append(_answer(channel, _ACK, settlement.ack_up_to, flag=1))
    frames += [_answer(channel, _ACK, tag) for tag in settlement.acks]
    return b"".join(frames)


def _answer(channel: int, method: int, tag: int, *, flag: int = 0) -> bytes:
    """A Basic.Ack (whose flag is *multiple*) or Basic.Reject (whose flag is *requeue*) as a whole frame."""
    return _ANSWER.pack(1, channel, _ANSWER_BYTES, _BASIC, method, tag, flag, 0xCE)


async def close_tapped(connection: AbstractConnection, tap: DeliveryTap) -> None:
    """
    Close *connection*. A broker that does not answer has it dropped, which lets the driver finish by itself.

    Cancelling the driver's close instead would leave its tasks behind.
    """
    deadline = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, tap.abort)
    try:
        with contextlib.suppress(BrokerUnavailable), broker_errors("closing"):
            await connection.close()
    finally:
        deadline.cancel()
