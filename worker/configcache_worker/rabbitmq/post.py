"""
Publish messages one after the other, each with properties that are bytes already: confirmed and routed, or an error.

For tools that put messages where they came from, or where they belong. A worker's letters go out by ``dead_letters``,
many at a time and over as many connections as it takes; here the end of the connection is the end.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from configcache.confirms import PublishingSession
from configcache.errors import BrokerUnavailable


class Post:
    """
    One connection that publishes. An async context manager, whose beginning raises BrokerUnavailable.

    Args:
        url: The broker's.
        name: What the broker shows the connection as.
        timeout_s: For connecting, and for each confirm.
        heartbeat_s: A silent broker is noticed after about three times this.
    """

    def __init__(self, url: str, *, name: str, timeout_s: float, heartbeat_s: int) -> None:
        self._url = url
        self._name = name
        self._timeout_s = timeout_s
        self._heartbeat_s = heartbeat_s
        self._session: PublishingSession | None = None

    async def __aenter__(self) -> Self:
        self._session = await PublishingSession.open(
            self._url, name=self._name, timeout_s=self._timeout_s, heartbeat_s=self._heartbeat_s
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def publish(
        self, body: bytes, properties: bytes, *, message_id: str, exchange: str, routing_key: str
    ) -> None:
        """
        Publish a message; when this returns, the broker has it on disk, in a queue.

        Args:
            body: Any bytes.
            properties: Flags and properties as on the wire.
            message_id: The one in *properties*, by which a message that comes back is known.
            exchange: Where to.
            routing_key: Which queue.

        Raises:
            Unroutable: No queue is bound.
            Refused: The broker said no.
            BrokerUnavailable: No answer in time, or no connection any more: it may be in the queue all the same.
        """
        if self._session is None:
            raise RuntimeError("use the post within `async with`")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._session.publish(
                    body, properties, message_id=message_id, exchange=exchange, routing_key=routing_key
                )
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"the broker did not confirm it within {self._timeout_s:g} s; it may be blocked by an alarm"
                " (memory, disk), or unreachable"
            ) from error
