"""
Publish what was cleared, for whoever keeps copies in memory.

A hint, and never in anybody's way: the clearing side hands news over and goes on. What waits here is merged, application by
application and instance by instance, so that an hour without a broker that takes it costs little memory and ends with one
event each. On a connection of its own, which a blocked publisher cannot take from the consumer.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog
from aio_pika import DeliveryMode
from pamqp.commands import Basic

from configcache.confirms import PublishingSession
from configcache.connection import Supervisor
from configcache.errors import BrokerUnavailable, PublishError
from configcache.events import EVENT_TYPE, MOST_ASSOCIATES, ConfigurationCacheCleared
from configcache.retry import RetryPolicy
from configcache.topology import EVENT_EXCHANGE
from configcache_worker.core.ports import News

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection

log = structlog.stdlib.get_logger()

MOST_HELD: Final = 10_000
"""Most applications and instances of which news wait."""

PORTION: Final = 200
"""
Most events that are published at once. More would not be confirmed in time, and would all be published again; and to
write them takes the event loop away from whoever else needs it.
"""

_MUTE_AFTER: Final = 5
"""A channel that has confirmed nothing for so many timeouts is given up, even if it seems to live."""


class RabbitAnnouncer:
    """
    Publishes news to the exchange of events; a :class:`~configcache_worker.core.ports.Announcer`.

    Args:
        url: The broker's.
        policy: Delays between attempts to connect or to publish.
        connect_timeout_s: For connecting.
        heartbeat_s: A silent broker is noticed after about three times this.
        confirm_timeout_s: How long the broker may take to confirm what was published, before it is published again.
        prepare: Called with each new connection before anything is published, to see to the topology.
    """

    def __init__(
        self,
        *,
        url: str,
        policy: RetryPolicy,
        connect_timeout_s: float,
        heartbeat_s: int,
        confirm_timeout_s: float = 1.0,
        prepare: Callable[[AbstractConnection], Awaitable[None]] | None = None,
    ) -> None:
        self._url = url
        self._policy = policy
        self._connect_timeout_s = connect_timeout_s
        self._heartbeat_s = heartbeat_s
        self._confirm_timeout_s = confirm_timeout_s
        self._prepare = prepare
        self._waiting: dict[tuple[str, str], News] = {}
        self._telling: dict[tuple[str, str], News] = {}
        self._came = asyncio.Event()
        self._all_told = asyncio.Event()
        self._all_told.set()
        self._sessions = Supervisor[PublishingSession](
            name="news", open=self._open_session, policy=policy, on_failure=self._tell_failure
        )

    def __repr__(self) -> str:
        return f"<RabbitAnnouncer waiting={len(self._waiting)} {self._sessions!r}>"

    def announce(self, news: Sequence[News]) -> None:
        """Take *news* over; see :class:`~configcache_worker.core.ports.Announcer`."""
        dropped = 0
        for each in news:
            key = (each.application, each.instance)
            earlier = self._waiting.get(key)
            if earlier is None and len(self._waiting) >= MOST_HELD:
                dropped += 1
                continue
            self._waiting[key] = merged(earlier, each)
        if dropped:
            log.error(
                "news.dropped",
                count=dropped,
                consequence="copies in memory stay until their own limit of age",
            )
        self._came.set()
        self._all_told.clear()

    async def run(self) -> None:
        """Publish until :meth:`stop`. To be called once."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sessions.run(), name="news sessions")
            tasks.create_task(self._publish_on(), name="publish news")

    async def flush(self) -> None:
        """Give what still waits a last chance, no longer than a confirm may take."""
        try:
            async with asyncio.timeout(self._confirm_timeout_s):
                await self._all_told.wait()
        except TimeoutError:
            log.warning(
                "news.untold",
                count=len(self._waiting.keys() | self._telling.keys()),
                consequence="copies in memory stay until their own limit of age",
            )

    async def stop(self) -> None:
        """Close the connection, and end :meth:`run`. Safe to repeat."""
        await self._sessions.stop()
        self._came.set()

    async def _publish_on(self) -> None:
        attempt = 0
        while True:
            await self._came.wait()
            try:
                session = await self._sessions.session()
            except BrokerUnavailable:
                return  # stopped
            portion = self._telling = self._take_portion()
            trouble = await self._tell(portion, session)
            if trouble is None:
                attempt = 0
            else:
                attempt += 1
                await session.end_if_mute(_MUTE_AFTER * self._confirm_timeout_s)
                self._tell_failure(attempt, delay_s := self._policy.delay_s(attempt), trouble)
                self._put_back(portion)
                await asyncio.sleep(delay_s)
            if not self._waiting:
                self._all_told.set()

    def _take_portion(self) -> dict[tuple[str, str], News]:
        """Of what waits, what has waited longest."""
        portion = {key: self._waiting[key] for key in islice(self._waiting, PORTION)}
        for key in portion:
            del self._waiting[key]
        if not self._waiting:
            self._came.clear()
        return portion

    async def _tell(
        self, portion: dict[tuple[str, str], News], session: PublishingSession
    ) -> BaseException | None:
        """Publish *portion*, and take out of it what was confirmed. Returns what happened to the rest, if there is one."""
        troubles: list[BaseException] = []

        async def tell_one(key: tuple[str, str]) -> None:
            try:
                await _publish(event_of(portion[key]), session)
            except PublishError as error:
                troubles.append(error)
            else:
                del portion[key]

        try:
            async with asyncio.timeout(self._confirm_timeout_s):
                await asyncio.gather(*map(tell_one, list(portion)))
        except TimeoutError as error:
            troubles.append(error)
        return troubles[0] if troubles else None

    def _put_back(self, portion: dict[tuple[str, str], News]) -> None:
        """
        Let *portion* wait again, merged with what came meanwhile, and behind the rest. Publishing news twice is harmless.
        """
        for key, earlier in portion.items():
            later = self._waiting.get(key)
            self._waiting[key] = earlier if later is None else merged(earlier, later)
        portion.clear()
        if self._waiting:
            self._came.set()

    async def _open_session(self) -> PublishingSession:
        return await PublishingSession.open(
            self._url,
            name="configcache worker news",
            timeout_s=self._connect_timeout_s,
            heartbeat_s=self._heartbeat_s,
            prepare=self._prepare,
        )

    def _tell_failure(self, attempt: int, delay_s: float, cause: BaseException) -> None:
        log.warning(
            "news.unavailable",
            attempt=attempt,
            retry_in_s=round(delay_s, 3),
            error=str(cause) or "no confirm in time",
            consequence="news is held and merged; commands are cleared as ever",
        )


def merged(earlier: News | None, later: News) -> News:
    """Two pieces of news of one application and instance as one."""
    if earlier is None:
        return later
    associates = None
    if earlier.associates is not None and later.associates is not None:
        associates = earlier.associates | later.associates
        if len(associates) > MOST_ASSOCIATES:
            associates = None  # the event will name nobody, so there is no use in keeping more
    return later._replace(
        associates=associates,
        rows=None if earlier.rows is None or later.rows is None else earlier.rows + later.rows,
        commands=earlier.commands + later.commands,
    )


def event_of(news: News) -> ConfigurationCacheCleared:
    """*news* as it is published."""
    named = news.associates if news.associates and len(news.associates) <= MOST_ASSOCIATES else None
    return ConfigurationCacheCleared(
        application=news.application,
        instance=news.instance,
        for_all_associates=named is None,
        associate_ids=tuple(sorted(named or ())),
        rows=news.rows,
        commands=news.commands,
    )


async def _publish(event: ConfigurationCacheCleared, session: PublishingSession) -> None:
    """Publish *event* and wait for the confirm. Whether anybody listens doesn't matter."""
    message_id = uuid.uuid4().hex
    properties = Basic.Properties(
        content_type="application/json",
        headers={"published-at": time.time_ns() // 1_000_000},
        delivery_mode=DeliveryMode.NOT_PERSISTENT,
        message_id=message_id,
        message_type=EVENT_TYPE,
    )
    await session.publish(
        event.encode(),
        properties.marshal(),
        message_id=message_id,
        exchange=EVENT_EXCHANGE,
        routing_key=event.routing_key,
        mandatory=False,
    )
