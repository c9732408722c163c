"""Commands and poison that can be told apart, and the accounts of what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection, Sequence
from functools import partial

from configcache import ClearConfigurationCache
from configcache.connection import close_connection, connect
from configcache.errors import BrokerUnavailable, PublishError
from configcache.publisher import Publisher
from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE
from configcache.wire import encode
from configcache_worker.app import table_layout
from configcache_worker.postgres.rows import CacheRow, CacheRows
from configcache_worker.rabbitmq.workbench import DeadLetter, Workbench
from configcache_worker.settings import Settings
from tests.process import WorkerProcess
from tests.waiting import eventually

APPLICATION, INSTANCE, ITEM = "WebClient", "Web", "Contact"
BYSTANDERS = frozenset(CacheRow(APPLICATION, "Other", associate, ITEM) for associate in range(1, 51))
"""Rows that no command names."""

_PUBLISHES_AT_ONCE = 250
_REST_S = 60.0


def command(associate: int) -> ClearConfigurationCache:
    """The command with the number *associate*."""
    return ClearConfigurationCache.for_associate(APPLICATION, INSTANCE, associate)


def cached(associate: int) -> CacheRow:
    """The row that this command clears."""
    return CacheRow(APPLICATION, INSTANCE, associate, ITEM)


def poison(number: int) -> bytes:
    """A message that no worker can ever obey, and that can be told from all others."""
    return json.dumps({"Poison": number}).encode()


async def ready(worker: WorkerProcess) -> None:
    """Wait until *worker* says that it is ready."""
    await eventually(partial(asyncio.to_thread, worker.is_ready), timeout_s=30)


async def delete_queue(url: str, queue: str) -> None:
    """Delete *queue*, with what is in it."""
    connection = await connect(url, name="tests", timeout_s=10, heartbeat_s=10)
    channel = await connection.channel()
    await (await channel.get_underlay_channel()).queue_delete(queue)
    await close_connection(connection)


class Load:
    """
    Publishes numbered commands and numbered poison, and waits until each has had its answer.

    Everything is counted by sets of numbers: rows left in the table, letters in the dead letters. Connections are
    opened for each look, so servers may come and go in between; a publish that was not confirmed is repeated.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._filled: set[int] = set()
        self.commands: set[int] = set()
        """Numbers of the commands whose publish was confirmed."""
        self.poison: set[int] = set()
        """Numbers of the poison whose publish was confirmed."""
        self._refused: set[int] = set()

    async def fill(self, numbers: Sequence[int]) -> None:
        """Cache a row for each of *numbers*, and the bystanders."""
        self._filled |= set(numbers)
        async with self._table() as rows:
            await rows.fill([*map(cached, numbers), *BYSTANDERS])

    async def publish(self, numbers: Sequence[int], *, poison_every: int | None = None) -> None:
        """
        Publish the commands *numbers*, whose rows must be there, until each is confirmed.

        Args:
            numbers: In this order.
            poison_every: Put one poison, with the number of its neighbour, after every so many commands.
        """
        poisonous = [number for number in numbers if poison_every and number % poison_every == 0]
        await asyncio.gather(self._publish_commands(numbers), self.publish_poison(poisonous))

    @contextlib.asynccontextmanager
    async def flowing(
        self, numbers: Sequence[int], *, poison_every: int | None = None
    ) -> AsyncIterator[None]:
        """Publish beside the block; the block's end waits for the last confirm."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.publish(numbers, poison_every=poison_every), name="load")
            yield

    async def left(self) -> set[int]:
        """Numbers of the commands whose rows are still there."""
        async with self._table() as rows:
            return {row.associate_id for row in await rows.all() if row.instance == INSTANCE}

    async def declare(self) -> None:
        """Declare the topology, where the harness did not."""
        async with self._bench() as bench:
            await bench.declare()

    async def begun(self) -> None:
        """Wait until the worker is at it: some rows are gone."""
        await eventually(self._has_begun, timeout_s=_REST_S)

    async def progress(self) -> None:
        """Wait until more rows are gone than now, or all that were asked for."""
        before = await self.left()

        async def has_progressed() -> bool:
            left = await self.left()
            return left < before or not left

        await eventually(has_progressed, timeout_s=_REST_S)

    async def applied(self, *, timeout_s: float = _REST_S) -> None:
        """Wait until the row of every command is gone."""
        await eventually(self._is_applied, timeout_s=timeout_s)

    async def buried(self, *, timeout_s: float = _REST_S) -> None:
        """Wait until all poison is in the dead letters."""
        await eventually(self._is_buried, timeout_s=timeout_s)

    async def dead_letters(self) -> list[DeadLetter]:
        """What is in the dead letters now."""
        async with self._bench() as bench:
            return await bench.dead_letters(most=65_535, timeout_s=_REST_S)

    async def depth(self, queue: str = COMMAND_QUEUE) -> int:
        """Messages of *queue* that no consumer holds."""
        async with self._bench() as bench:
            return await bench.depth(queue)

    async def accounts_balance(
        self, *workers: WorkerProcess, refused: Collection[int] = (), timeout_s: float = _REST_S
    ) -> None:
        """
        Wait until every command is applied and all poison buried; then stop *workers* and check that this was all:
        they run, are ready, and end with 0; the queue is empty; bystanders live; no good command is in the dead letters.

        Args:
            workers: All that run.
            refused: Numbers of commands that the database never lets through: they must be in the dead letters.
            timeout_s: For either.
        """
        self.commands -= set(refused)
        self._refused |= set(refused)
        await self.applied(timeout_s=timeout_s)
        await self.buried(timeout_s=timeout_s)
        for worker in workers:
            assert worker.is_running, worker
            await eventually(partial(asyncio.to_thread, worker.is_ready), timeout_s=timeout_s)
        for worker in workers:
            assert await asyncio.to_thread(worker.terminate) == 0, worker
        await eventually(self._is_empty)
        async with self._table() as rows:
            assert await rows.all() == BYSTANDERS | set(map(cached, self._refused))
        assert {letter.body for letter in await self.dead_letters()} == self._unwanted()

    async def _has_begun(self) -> bool:
        return await self.left() < self._filled

    async def _is_applied(self) -> bool:
        return not self.commands & await self.left()

    async def _is_buried(self) -> bool:
        # A poison whose confirm was lost is published twice and may be buried twice; its letter even more often.
        try:
            if await self.depth(DEAD_LETTER_QUEUE) < len(self._unwanted()):
                return False
        except BrokerUnavailable:  # a row has deleted the queue, and nobody has declared it again yet
            return False
        return {letter.body for letter in await self.dead_letters()} >= self._unwanted()

    def _unwanted(self) -> set[bytes]:
        """Bodies that have to end in the dead letters."""
        refused = {encode(command(number)) for number in self._refused}
        return refused | {poison(number) for number in self.poison}

    async def _is_empty(self) -> bool:
        return await self.depth() == 0

    async def _publish_commands(self, numbers: Sequence[int]) -> None:
        async with Publisher(url=self._settings.broker.url, timeout_s=5.0) as publisher:
            for start in range(0, len(numbers), _PUBLISHES_AT_ONCE):
                some = numbers[start : start + _PUBLISHES_AT_ONCE]
                await asyncio.gather(*(self._publish_command(publisher, number) for number in some))

    async def _publish_command(self, publisher: Publisher, number: int) -> None:
        while number not in self.commands:
            with contextlib.suppress(PublishError):
                await publisher.publish(command(number))
                self.commands.add(number)

    async def publish_poison(self, numbers: Sequence[int]) -> None:
        """Publish the poison *numbers* until each is confirmed."""
        waiting = list(numbers)
        while waiting:
            with contextlib.suppress(PublishError):
                async with self._bench() as bench:
                    while waiting:
                        await bench.publish(poison(waiting[0]))
                        self.poison.add(waiting.pop(0))

    def _table(self) -> CacheRows:
        return CacheRows(self._settings.database.url, table_layout(self._settings.cache))

    def _bench(self) -> Workbench:
        return Workbench(self._settings.broker.url)
