"""
Where a run happens: a broker and a database server that all runs share, and for each a virtual host and a database of its
own, with the table filled and the backlog published.

Every database of a workload is a copy of one template, so that all contenders find the same table on the same pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final

import asyncpg
from pamqp import commands

from benchmarks import processes
from benchmarks.amqp import Channel, Encoder
from benchmarks.contenders import Contender
from benchmarks.programs import ContenderFailed
from benchmarks.workloads import APPLICATION, MARKS, Mark, Workload
from configcache.topology import COMMAND_EXCHANGE, COMMAND_QUEUE, COMMAND_ROUTING_KEY
from configcache.wire import COMMAND_PROPERTIES
from configcache_worker.local.servers import BROKER_VARIABLE, Servers
from configcache_worker.postgres.migrations import migrate
from configcache_worker.rabbitmq.workbench import Workbench

_PERSISTENT: Final = 2
_POLL_S: Final = 0.01
_RETURN_S: Final = 0.3
_REST_POLL_S: Final = 0.25
_IDLE_CPU_S: Final = 0.02
_LONGEST_REST_S: Final = 10.0


def start_servers() -> Servers:
    """A private database server, and a private broker unless ``CONFIGCACHE_TEST_BROKER_URL`` lends another one."""
    return Servers(broker_url=os.environ.get(BROKER_VARIABLE))


class Arena:
    """One contender's virtual host and database. Made by :func:`arena`."""

    def __init__(
        self,
        *,
        contender: Contender,
        workload: Workload,
        broker_url: str,
        database_url: str,
        bench: Workbench,
        database: asyncpg.Connection,
    ) -> None:
        self.contender = contender
        self.workload = workload
        self.broker_url = broker_url
        self.database_url = database_url
        self.bench = bench
        self.database = database

    async def publish(self, bodies: Iterable[bytes]) -> None:
        """Publish *bodies* to the contender's queue; when this returns, the broker has confirmed them."""
        await asyncio.to_thread(self._publish, bodies)

    def encoder(self) -> Encoder:
        """What encodes messages for the contender's queue."""
        properties = commands.Basic.Properties(
            content_type=COMMAND_PROPERTIES.content_type,
            message_type=COMMAND_PROPERTIES.type,
            delivery_mode=_PERSISTENT,
            app_id="benchmark",
            headers={"published-at": time.time_ns() // 1_000_000},
        )
        if self.contender.queue == COMMAND_QUEUE:
            return Encoder(COMMAND_EXCHANGE, COMMAND_ROUTING_KEY, properties)
        return Encoder("", self.contender.queue, properties)

    def messages(self, bodies: Iterable[bytes]) -> Iterator[bytes]:
        """*bodies* as publishes for the contender, encoded one by one."""
        encode, wrap = self.encoder().encode, self.contender.wrap
        return (encode(wrap(body)) for body in bodies)

    async def gone(self, mark: Mark, *, poll_s: float = _POLL_S) -> None:
        """Wait until the row of *mark* is gone."""
        query = (
            "SELECT EXISTS (SELECT FROM configuration_cache"
            " WHERE application = $1 AND instance = $2 AND associate_id = $3)"
        )
        while await self.database.fetchval(query, APPLICATION, *mark):
            await asyncio.sleep(poll_s)

    async def rows(self) -> int:
        """Rows in the table now."""
        return await self.database.fetchval("SELECT count(*) FROM configuration_cache")

    async def rest(self) -> None:
        """
        Wait until the servers have done what publishing and filling left them to do, such as writing segments: the first
        contender to come would pay for it.
        """
        pids = [*processes.servers_named("beam.smp"), *processes.servers_named("postgres")]
        deadline, before_s = time.monotonic() + _LONGEST_REST_S, -1.0
        while (now_s := processes.cpu_s(pids)) - before_s > _IDLE_CPU_S and time.monotonic() < deadline:
            before_s = now_s
            await asyncio.sleep(_REST_POLL_S)

    async def cleared(self) -> int:
        """Rows gone until now."""
        return self.workload.rows + len(MARKS) - await self.rows()

    async def buried(self) -> None:
        """Wait until all of the workload's poison is in the dead letters."""
        while await self.dead_letters() < self.workload.poison:
            await asyncio.sleep(_POLL_S)

    async def dead_letters(self) -> int:
        """Dead letters now."""
        return await self.bench.depth(self.contender.dead_letters)

    async def check_outcome(self) -> None:
        """
        Check what was done, now that no worker runs.

        Raises:
            ContenderFailed: A command did not clear its row or was not acknowledged, a row is gone that none named, or
                the dead letters are not the workload's poison.
        """
        # What a worker held when it ended comes back within a moment; what it acknowledged does not.
        await asyncio.sleep(_RETURN_S)
        found = {
            "rows left": (await self.rows(), self.workload.rows_left),
            "messages left": (await self.bench.depth(self.contender.queue), 0),
            "dead letters": (await self.dead_letters(), self.workload.poison),
        }
        wrong = [f"{got} {what}, not {want}" for what, (got, want) in found.items() if got != want]
        if wrong:
            raise ContenderFailed(f"{self.contender.title}, {self.workload.title}: {'; '.join(wrong)}")

    def _publish(self, bodies: Iterable[bytes]) -> None:
        with Channel(self.broker_url) as channel:
            channel.confirm()
            channel.publish(self.messages(bodies))


@contextlib.asynccontextmanager
async def arena(servers: Servers, workload: Workload, contender: Contender) -> AsyncIterator[Arena]:
    """A new virtual host with the topology and what *contender* needs, and a new database, filled for *workload*."""
    async with contextlib.AsyncExitStack() as stack:
        broker_url = await stack.enter_async_context(_in_thread(servers.vhost()))
        database_url = await stack.enter_async_context(_in_thread(servers.database(_prepare(workload.fills))))
        bench = await stack.enter_async_context(Workbench(broker_url))
        await bench.declare()
        with Channel(broker_url) as channel:
            for queue, arguments in contender.own_queues.items():
                channel.declare(queue, arguments)
        database = await asyncpg.connect(database_url)
        stack.push_async_callback(database.close)
        yield Arena(
            contender=contender,
            workload=workload,
            broker_url=broker_url,
            database_url=database_url,
            bench=bench,
            database=database,
        )


@contextlib.asynccontextmanager
async def _in_thread(manager: contextlib.AbstractContextManager[str]) -> AsyncIterator[str]:
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


@functools.cache
def _prepare(fills: tuple[str, ...]) -> Callable[[str], None]:
    """What makes the template of all databases that are filled by *fills*: one function for each, as it is known by it."""

    def prepare(url: str) -> None:
        asyncio.run(fill(url))

    async def fill(url: str) -> None:
        await migrate(url, schema="public")
        database = await asyncpg.connect(url)
        try:
            for sql in (*fills, "VACUUM ANALYZE configuration_cache"):
                await database.execute(sql)
        finally:
            await database.close()

    return prepare
