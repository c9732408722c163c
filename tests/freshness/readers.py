"""
Readers of a stress, as a program: read through the cache until told to stop, and look at what comes.

Most reads are ordinary ones. Some are refreshes; some builds fail, are cancelled, or take longer than their lease; some readers die
holding one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from configcache.cache import ConfigurationCache
from configcache.retry import RetryPolicy
from tests.freshness.board import APPLICATION, ASSOCIATES, INSTANCES, ITEMS, Board, slot_of
from tests.freshness.mutations import Mutation

SOURCE = "SELECT version FROM source WHERE instance = $1 AND associate_id = $2"
LEASE_S = 0.1
_POLL = RetryPolicy(first_s=0.004, longest_s=0.03)
_DIES, _FAILS, _IS_CANCELLED, _REFRESHES = 0.001, 0.005, 0.005, 0.02
_IS_SLOW = 0.005


class BuildFailed(Exception):
    """As planned."""


class Sharing(ConfigurationCache):
    """Breaks a rule: hands what could not be stored to those who wait."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._waiting, self._refused = {}, {}

    async def _wait(self, key, attempt, deadline):
        self._waiting[asyncio.current_task()] = key
        await super()._wait(key, attempt, deadline)

    async def _begin(self, key, lease, *, refresh):
        if self._waiting.pop(asyncio.current_task(), None) == key and (xml := self._refused.pop(key, None)):
            return (await super()._begin(key, lease, refresh=refresh))._replace(xml=xml)
        return await super()._begin(key, lease, refresh=refresh)

    async def _store(self, key, lease, xml):
        is_stored = await super()._store(key, lease, xml)
        if not is_stored:
            self._refused[key] = xml
        return is_stored


@dataclass
class Readers:
    """Some readers over one pool."""

    pool: asyncpg.Pool
    cache: ConfigurationCache
    board: Board
    number: int
    rng: random.Random
    is_early: bool
    """Breaks a rule: the configuration is read before begin."""
    reads: int = 0
    stale: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        while not self.board.is_over:
            instance, associate, item = self._key()
            slot = slot_of(instance, associate)
            floor = self.board.cleared(slot)
            version = await self._read(instance, associate, item)
            if version is not None:
                self.reads += 1
                if version < floor:
                    self.stale.append(f"{instance} {associate} {item}: {version}, and {floor} was cleared")
                self.board.note(self.number, reads=self.reads, stale=len(self.stale))

    def _key(self):
        # Every second read is of one of a few keys, for which many race.
        associates = ASSOCIATES[:3] if self.rng.random() < 0.5 else ASSOCIATES
        items = ITEMS[:1] if len(associates) == 3 else ITEMS
        return self.rng.choice(INSTANCES), self.rng.choice(associates), self.rng.choice(items)

    async def _read(self, instance, associate, item) -> int | None:
        key = (APPLICATION, instance, associate, item)
        early = await self._source(instance, associate) if self.is_early else None

        async def build() -> str:
            version = await self._source(instance, associate) if early is None else early
            self.seen["built"] += 1
            await asyncio.sleep(LEASE_S * 1.5 if self.rng.random() < _IS_SLOW else self.rng.uniform(0, 0.006))
            if self.rng.random() < _FAILS:
                raise BuildFailed
            return f"{version} {'x' * 300}"

        chance = self.rng.random()
        if chance < _DIES:
            await self.pool.fetchrow(
                "SELECT configuration_cache_begin($1, $2, $3, $4, lease_for => '0.1 s')", *key
            )
            self.seen["died"] += 1
            return None
        read = self.cache.refresh if chance < _DIES + _REFRESHES else self.cache.get_or_build
        with contextlib.suppress(BuildFailed, TimeoutError):
            # A moment that is shorter than many a build.
            is_cancelled = self.rng.random() < _IS_CANCELLED
            async with asyncio.timeout(0.005 if is_cancelled else 60.0):
                xml = await read(*key, build)
            return int(xml.split()[0])
        self.seen["failed or cancelled"] += 1
        return None

    async def _source(self, instance, associate) -> int:
        return await self.pool.fetchval(SOURCE, instance, associate)


async def main(url: str, board: str, number: int, readers: int, mutation: str | None) -> None:
    broken = Mutation[mutation] if mutation else None
    kind = Sharing if broken is Mutation.WAITER_ACCEPTS_REFUSED else ConfigurationCache
    async with asyncpg.create_pool(url, min_size=readers, max_size=readers + 1) as pool:
        some = Readers(
            pool=pool,
            cache=kind(pool, lease_s=LEASE_S, wait_s=30.0, poll=_POLL),
            board=Board(Path(board)),
            number=number,
            rng=random.Random(number),
            is_early=broken is Mutation.READ_BEFORE_BEGIN,
        )
        async with asyncio.TaskGroup() as tasks:
            for _ in range(readers):
                tasks.create_task(some.run())
    sys.stdout.write(json.dumps({"reads": some.reads, "stale": some.stale[:5], **some.seen}))


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))
