"""
The demonstration: private servers, a filled cache, a worker process, producers of two kinds, and a look before and after.

It works out by itself what has to be left, and fails if that is not what the worker left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import pika

from configcache import ClearConfigurationCache, Publisher
from configcache.topology import COMMAND_EXCHANGE, COMMAND_QUEUE, COMMAND_ROUTING_KEY, DEAD_LETTER_QUEUE
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.servers import Servers
from configcache_worker.postgres.migrations import migrate
from configcache_worker.postgres.rows import CacheRow, CacheRows
from configcache_worker.postgres.statements import TableLayout
from configcache_worker.rabbitmq.workbench import DeadLetter, Workbench

Say = Callable[[str], None]

ASSOCIATES: Final = range(1, 101)
PAGES: Final = ("Contact", "Project", "Sale", "Diary")
CONFIGURATIONS: Final = (("WebClient", "Web"), ("WebClient", "Trial"), ("MobileClient", "Main"))

FROM_SDK: Final = (
    ClearConfigurationCache.for_associate("WebClient", "Web", 42),
    # What a busy afternoon looks like: one command for each of many associates, some of them twice.
    *(
        ClearConfigurationCache.for_associate("WebClient", "Trial", associate)
        for associate in ASSOCIATES[:60]
    ),
    *(
        ClearConfigurationCache.for_associate("WebClient", "Trial", associate)
        for associate in ASSOCIATES[:60]
    ),
)
BARE: Final = b'{"Application":"MobileClient","Instance":"Main","ForAllAssociates":true}'
MISTAKES: Final = (
    (b'{"Application":"WebClient","Instance":"Web","ForAllAssociate":true}', "unknown-property"),
    (b'{"Application":"WebClient","Instance":"Web","ForAllAssociates":false}', "missing-associate"),
    (b'{"Application":"","Instance":"Web","ForAllAssociates":true}', "invalid-application"),
    (b"clear everything, please", "invalid-json"),
)
_BATCHES_SHOWN: Final = 8
_PATIENCE_S: Final = 30.0
_POLL_S: Final = 0.05


async def demonstrate(say: Say) -> bool:
    """
    Show the whole thing, telling *say* about it line by line.

    Returns:
        Whether everything was as it has to be.

    Raises:
        ServerUnavailable: RabbitMQ or PostgreSQL is not to be had; the text says how to get it.
    """
    servers = Servers.from_environment()
    say("Starting a private RabbitMQ and a private PostgreSQL ...")
    try:
        await asyncio.to_thread(servers.start)
        with servers.vhost() as broker_url, servers.database() as database_url:
            return await _Demonstration(broker_url, database_url, say).run()
    finally:
        await asyncio.to_thread(servers.stop)


class _Demonstration:
    def __init__(self, broker_url: str, database_url: str, say: Say) -> None:
        self._broker_url = broker_url
        self._database_url = database_url
        self._say = say
        self._failures: list[str] = []

    async def run(self) -> bool:
        for migration in await migrate(self._database_url, schema="public"):
            self._say(f"Migrated: {migration.name}")
        async with (
            CacheRows(self._database_url, TableLayout()) as cache,
            Workbench(self._broker_url) as bench,
        ):
            await cache.fill(_rows(), xml=_xml())
            before = await cache.all()
            with tempfile.TemporaryDirectory(prefix="configcache-demo-") as folder:
                async with self._worker(Path(folder)) as log:
                    self._say("")
                    await self._publish(bench)
                    expected = _left_of(before)
                    await self._until(lambda: self._is_done(cache, bench, expected))
                events = _events(log)
            after, letters = await cache.all(), await bench.dead_letters()
            waiting = await bench.depth(COMMAND_QUEUE)
        self._show_rows(before, after)
        self._show_letters(letters)
        self._show_batches(events)
        self._check(after == expected, "exactly the rows named by the commands are gone")
        self._check(
            sorted((letter.body or b"", letter.reason) for letter in letters) == sorted(MISTAKES),
            "every mistake is in the dead letters, with its reason and an identical body",
        )
        self._check(waiting == 0, "nothing is left in the queue")
        return not self._failures

    async def _publish(self, bench: Workbench) -> None:
        async with Publisher(url=self._broker_url, app_id="demo") as publisher:
            await asyncio.gather(*(publisher.publish(command) for command in FROM_SDK))
        self._say(f"Published {len(FROM_SDK)} commands with configcache.Publisher, such as")
        self._say(f"    {FROM_SDK[0]!r}")
        await asyncio.to_thread(_publish_bare, self._broker_url, [BARE, *(body for body, _ in MISTAKES)])
        self._say("Published 1 command and 4 mistakes as bare JSON with another client (pika):")
        for body in (BARE, *(body for body, _ in MISTAKES)):
            self._say(f"    {body.decode()}")

    async def _is_done(self, cache: CacheRows, bench: Workbench, expected: set[CacheRow]) -> bool:
        return await cache.all() == expected and await bench.depth(DEAD_LETTER_QUEUE) == len(MISTAKES)

    @contextlib.asynccontextmanager
    async def _worker(self, folder: Path) -> AsyncIterator[Path]:
        """A worker process of its own until the end of the block; its log's path."""
        (port,) = free_ports(1)
        log = folder / "worker.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - it starts in milliseconds, and nothing else goes on
                [sys.executable, "-m", "configcache_worker", "worker"],
                cwd=folder,
                env=self._environment(port),
                stderr=output,
            )
        try:
            await self._until(lambda: asyncio.to_thread(_is_ready, port))
            self._say(f"Worker is ready: process {process.pid}")
            yield log
            process.terminate()
            exit_code = await asyncio.to_thread(process.wait, _PATIENCE_S)
            self._check(exit_code == 0, "the worker drained at SIGTERM and exited with 0")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _environment(self, port: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGCACHE_")}
        return inherited | {
            "CONFIGCACHE_BROKER__URL": self._broker_url,
            "CONFIGCACHE_DATABASE__URL": self._database_url,
            "CONFIGCACHE_TELEMETRY__PORT": str(port),
            "CONFIGCACHE_TELEMETRY__LOG_FORMAT": "json",
        }

    async def _until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not await condition():
            if time.monotonic() > deadline:
                self._check(False, f"it took no longer than {_PATIENCE_S:g} s")
                return
            await asyncio.sleep(_POLL_S)

    def _check(self, holds: bool, promise: str) -> None:
        self._say(f"{'ok  ' if holds else 'FAIL'}  {promise}")
        if not holds:
            self._failures.append(promise)

    def _show_rows(self, before: set[CacheRow], after: set[CacheRow]) -> None:
        self._say(f"\n{'cached rows':<28}{'before':>8}{'after':>8}")
        for application, instance in CONFIGURATIONS:
            counts = [sum(row[:2] == (application, instance) for row in rows) for rows in (before, after)]
            self._say(f"{application + ' / ' + instance:<28}{counts[0]:>8}{counts[1]:>8}")
        forty_two = [sum(row[:3] == ("WebClient", "Web", 42) for row in rows) for rows in (before, after)]
        self._say(f"{'  of these, associate 42':<28}{forty_two[0]:>8}{forty_two[1]:>8}   (WebClient / Web)")

    def _show_letters(self, letters: Sequence[DeadLetter]) -> None:
        self._say("\ndead letters")
        for letter in letters:
            self._say(f"{letter.reason}: {(letter.body or b'').decode()}")
            self._say(f"    {letter.detail}")

    def _show_batches(self, events: Iterable[dict[str, Any]]) -> None:
        batches = [event for event in events if event["event"] == "batch.cleared"]
        self._say(f"\n{'batches':<10}{'commands':>10}{'scopes':>8}{'rows':>8}{'ms':>8}")
        for number, batch in enumerate(batches[:_BATCHES_SHOWN], 1):
            self._say(_batch_line(str(number), [batch]))
        if len(batches) > _BATCHES_SHOWN:
            self._say("...")
        self._say(_batch_line(f"all {len(batches)}", batches) + "\n")


def _batch_line(name: str, batches: Sequence[dict[str, Any]]) -> str:
    commands, scopes, rows = (sum(batch[key] for batch in batches) for key in ("commands", "scopes", "rows"))
    duration_ms = sum(batch["duration_s"] for batch in batches) * 1000
    return f"{name:<10}{commands:>10}{scopes:>8}{rows:>8}{duration_ms:>8.1f}"


def _rows() -> list[CacheRow]:
    return [
        CacheRow(application, instance, associate, page)
        for application, instance in CONFIGURATIONS
        for associate in ASSOCIATES
        for page in PAGES
    ]


def _xml() -> str:
    panels = "".join(
        f'<panel id="panel{number}" type="SplitterPanel"><card id="card{number}" rights="read,write"/></panel>'
        for number in range(20)
    )
    return f'<configuration><page id="main"><panels>{panels}</panels></page></configuration>'


def _left_of(rows: set[CacheRow]) -> set[CacheRow]:
    """What must be left, worked out from the commands alone and one by one."""
    gone: Counter[tuple[str, str, int]] = Counter()
    for command in FROM_SDK:
        gone[command.application, command.instance, command.associate_id or 0] += 1
    return {row for row in rows if row[:3] not in gone and row[:2] != ("MobileClient", "Main")}


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _publish_bare(url: str, bodies: Sequence[bytes]) -> None:
    """As a client would that knows nothing but the exchange, the routing key and the JSON."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish(COMMAND_EXCHANGE, COMMAND_ROUTING_KEY, body)
    connection.close()
