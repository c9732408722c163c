"""
The harness: a real worker on a real RabbitMQ and a real PostgreSQL, for your tests and for ours.

::

    async with configuration_cache() as system:
        await system.fill([CacheRow("WebClient", "Web", 42, "page")])
        await system.publish(ClearConfigurationCache.for_associate("WebClient", "Web", 42))
        await system.settled()
        assert await system.rows() == set()

With pytest, request the fixture ``configuration_cache``, which skips where there are no servers::

    async def test_my_service(configuration_cache):
        async with configuration_cache() as system:
            ...

The servers are private, started by the first system and shared by all of a process; ``CONFIGCACHE_TEST_BROKER_URL`` and
``CONFIGCACHE_TEST_DATABASE_URL`` name foreign ones instead. Every system has a virtual host and a database of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from configcache.command import ClearConfigurationCache
from configcache.publisher import Publisher
from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE
from configcache_worker.app import Worker, build_worker, table_layout
from configcache_worker.local.errors import ServerUnavailable
from configcache_worker.local.servers import Servers
from configcache_worker.postgres.migrations import migrate
from configcache_worker.postgres.rows import CacheRow, CacheRows
from configcache_worker.rabbitmq.workbench import DeadLetter, Workbench
from configcache_worker.settings import (
    BrokerSettings,
    CacheSettings,
    DatabaseSettings,
    Settings,
    TelemetrySettings,
    WorkerSettings,
)

if TYPE_CHECKING:
    from configcache_worker.observe.traces import Traces

__all__ = [
    "CacheRow",
    "ConfigurationCacheSystem",
    "DeadLetter",
    "NotSettled",
    "ServerUnavailable",
    "Servers",
    "configuration_cache",
]

_T = TypeVar("_T")

_POLL_S: Final = 0.01
_PUBLISHES_AT_ONCE: Final = 500
_START_TIMEOUT_S: Final = 30.0
_QUICK_RETRIES: Final = {"longest_retry_s": 0.5}


class NotSettled(AssertionError):
    """The system did not come to rest in time. The text says what was left."""


class ConfigurationCacheSystem:
    """A worker between a broker and a database, and what a test asks of them. Made by :func:`configuration_cache`."""

    def __init__(
        self,
        *,
        settings: Settings,
        publisher: Publisher,
        bench: Workbench,
        rows: CacheRows,
        traces: Traces | None = None,
    ) -> None:
        self.settings = settings
        """What the worker runs with, the URLs of virtual host and database included."""
        self.bench = bench
        """For publishing what no :class:`~configcache.publisher.Publisher` would, and for looking into queues."""
        self.publisher = publisher
        """For the code under test, to publish as it does in production."""
        self.worker: Worker | None = None
        self._rows = rows
        self._traces = traces
        self._running: asyncio.Task[None] | None = None
        self._letters_before = 0

    def __repr__(self) -> str:
        return f"<ConfigurationCacheSystem {self.worker!r}>"

    async def publish(self, *commands: ClearConfigurationCache) -> None:
        """Publish *commands*, in order; when this returns, the broker has them in the worker's queue."""
        for start in range(0, len(commands), _PUBLISHES_AT_ONCE):
            some = commands[start : start + _PUBLISHES_AT_ONCE]
            await asyncio.gather(*(self.publisher.publish(command) for command in some))

    async def publish_raw(self, *bodies: bytes) -> None:
        """Publish *bodies* as they are, without properties, as the barest client would."""
        for body in bodies:
            await self.bench.publish(body)

    async def fill(self, rows: Iterable[CacheRow | tuple[str, str, int, str]]) -> None:
        """Put *rows* into the cache. Those that are there already stay."""
        await self._rows.fill(CacheRow(*row) for row in rows)

    async def rows(self) -> set[CacheRow]:
        """What is in the cache now."""
        return await self._rows.all()

    async def execute(self, sql: str) -> None:
        """Run *sql* in the system's database."""
        await self._rows.execute(sql)

    async def dead_letters(self) -> list[DeadLetter]:
        """What is in the dead-letter queue now. It stays there."""
        return await self.bench.dead_letters()

    async def settled(self, *, timeout_s: float = 10.0) -> None:
        """
        Wait until every command published so far has been answered: rows gone, or in the dead letters.

        Raises:
            NotSettled: That took longer than *timeout_s*.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._is_at_rest():
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            waiting = await self.bench.depth(COMMAND_QUEUE)
            letters = await self.bench.depth(DEAD_LETTER_QUEUE)
            raise NotSettled(
                f"not settled in {timeout_s:g} s: {waiting} commands in the queue, {letters} dead letters; {self.worker!r}"
            ) from None

    async def start_worker(self) -> Worker:
        """Start the worker, and wait until it consumes."""
        self.worker = worker = build_worker(self.settings, traces=self._traces)
        self._running = running = asyncio.create_task(worker.run(), name="worker under test")
        consuming = asyncio.create_task(worker.sessions.session())
        await asyncio.wait(
            {running, consuming}, timeout=_START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if running.done():
            consuming.cancel()
            running.result()
        if not consuming.done():
            consuming.cancel()
            raise NotSettled(
                f"the worker did not begin to consume in {_START_TIMEOUT_S:g} s: {worker.pipeline!r}"
            )
        return worker

    async def stop_worker(self) -> None:
        """Stop the worker as SIGTERM does, and wait for it. Nothing happens if none runs."""
        if self.worker is not None and self._running is not None:
            self.worker.stop()
            running, self._running = self._running, None
            await running
            self._count_letters()

    async def kill_worker(self) -> None:
        """End the worker in the middle of whatever it does, settling nothing more."""
        if self.worker is not None and self._running is not None:
            running, self._running = self._running, None
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self._count_letters()

    def _count_letters(self) -> None:
        self._letters_before += self._letters_of_worker()
        self.worker = None

    def _letters_of_worker(self) -> int:
        totals = self.worker and self.worker.pipeline.totals
        return totals.dead_lettered if totals else 0

    async def _is_at_rest(self) -> bool:
        session = self.worker and self.worker.sessions.current
        if not self.worker or not session or await self.bench.depth(COMMAND_QUEUE):
            return False
        # The queue has handed out everything, so what is still on its way to us arrives before this answer does.
        await session.flush()
        if self.worker.pipeline.in_flight:
            return False
        letters = self._letters_before + self._letters_of_worker()
        return await self.bench.depth(DEAD_LETTER_QUEUE) >= letters


@contextlib.asynccontextmanager
async def configuration_cache(
    *,
    servers: Servers | None = None,
    start_worker: bool = True,
    table_sql: str | None = None,
    broker: Mapping[str, Any] | None = None,
    database: Mapping[str, Any] | None = None,
    cache: Mapping[str, Any] | None = None,
    worker: Mapping[str, Any] | None = None,
    telemetry: Mapping[str, Any] | None = None,
    traces: Traces | None = None,
) -> AsyncIterator[ConfigurationCacheSystem]:
    """
    Run a whole system in a virtual host and a database of its own, both removed afterwards.

    Args:
        servers: Where to run it. None for the pair that all systems of this process share.
        start_worker: Whether a worker consumes from the beginning; see ``start_worker()`` for later.
        table_sql: Creates a table of your own instead of the usual one; name it in *cache*.
        broker: Settings of the section ``broker``, but for the URL.
        database: The same for ``database``.
        cache: Settings of the section ``cache``.
        worker: Settings of the section ``worker``. Retries are quicker than usual by default.
        telemetry: Settings of the section ``telemetry``. Without a port, by default, nothing is served.
        traces: Where spans of worker and publisher go, whatever *telemetry* says. It is the caller's to stop.

    Raises:
        ServerUnavailable: RabbitMQ or PostgreSQL is not to be had; the text says how to get it.
    """
    shared = servers or _shared_servers()
    async with contextlib.AsyncExitStack() as stack:
        broker_url = await stack.enter_async_context(_in_thread(shared.vhost()))
        database_url = await stack.enter_async_context(
            _in_thread(shared.database(None if table_sql else _migrate_template))
        )
        settings = Settings(
            broker=BrokerSettings(url=broker_url, **(broker or {})),
            database=DatabaseSettings(url=database_url, **(database or {})),
            cache=CacheSettings(**(cache or {})),
            worker=WorkerSettings(**{**_QUICK_RETRIES, **(worker or {})}),
            telemetry=TelemetrySettings(**{"port": 0, **(telemetry or {})}),
        )
        bench = await stack.enter_async_context(Workbench(broker_url))
        await bench.declare()
        rows = await stack.enter_async_context(CacheRows(database_url, table_layout(settings.cache)))
        if table_sql:
            await rows.execute(table_sql)
        publisher = await stack.enter_async_context(
            Publisher(url=broker_url, app_id="configcache tests", tracer=traces.sends() if traces else None)
        )
        system = ConfigurationCacheSystem(
            settings=settings, publisher=publisher, bench=bench, rows=rows, traces=traces
        )
        stack.push_async_callback(system.stop_worker)
        if start_worker:
            await system.start_worker()
        yield system


@functools.cache
def _shared_servers() -> Servers:
    servers = Servers.from_environment()
    atexit.register(servers.stop)
    return servers


def _migrate_template(url: str) -> None:
    asyncio.run(migrate(url, schema="public"))


@contextlib.asynccontextmanager
async def _in_thread(manager: contextlib.AbstractContextManager[_T]) -> AsyncIterator[_T]:
    """*manager*, entered and left without blocking the event loop."""
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
