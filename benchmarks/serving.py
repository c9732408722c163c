"""How many requests does the gateway serve, and how soon, beside an endpoint that only parses and publishes?"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import asyncpg

from benchmarks import processes
from benchmarks.arena import arena
from benchmarks.contenders import OURS, Contender
from benchmarks.contenders.bare_endpoint import PATH
from benchmarks.programs import ContenderFailed, running, while_alive
from benchmarks.results import Serving
from benchmarks.stats import percentile
from benchmarks.workloads import distinct
from configcache.topology import COMMAND_QUEUE
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.servers import Servers

_CLIENTS: Final = 64
_BODY: Final = b'{"Application":"WebClient","Instance":"Web","ForAllAssociates":true}'
_REQUEST: Final = (
    f"POST {PATH} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: Basic dGplMDpUamUw\r\n"
    f"Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n"
).encode() + _BODY

# The user and the password of the request above, as a view of credentials has them.
_CREDENTIAL: Final = """
INSERT INTO gateway_stored_credential (kind, name, secret_hash, associate_id, may_clear_all) VALUES ('password', 'tje0',
'$argon2id$v=19$m=65536,t=3,p=4$v4DC1xyE6Z+r61NRuyD3yw$yCqQfeWf7qPcztwFSBvxuGKuOJs5xMw7Rc4ai6RGr9k', 42, true)
"""


async def serving(servers: Servers, contender: Contender, *, seconds: float, number: int = 1) -> Serving:
    """
    Ask *contender* from 64 connections, each as soon as it has its answer, for so many *seconds*.

    Raises:
        ContenderFailed: It died, answered something else than 204, or the queue does not have what it confirmed.
    """
    async with arena(servers, distinct(1), OURS) as place:
        await _add_credential(place.database_url)
        (port,) = free_ports(1)
        environment = {
            "PORT": str(port),
            "CONFIGCACHE_BROKER__URL": place.broker_url,
            "CONFIGCACHE_DATABASE__URL": place.database_url,
            "CONFIGCACHE_GATEWAY__PORT": str(port),
            "CONFIGCACHE_TELEMETRY__PORT": "0",
        }
        with running(contender, place.broker_url, place.database_url, environment) as program:
            await while_alive([program], _warm(port))
            load = _Load(port, until_s=time.monotonic() + seconds)
            before_s = processes.cpu_s(program.pids())
            await while_alive([program], load.run())
            spent_s = processes.cpu_s(program.pids()) - before_s
            await program.stop()
        queued = await place.bench.depth(COMMAND_QUEUE)
        if queued != len(load.waits_s) + 1:
            raise ContenderFailed(f"{queued} commands in the queue, {len(load.waits_s) + 1} answers of 204")
    waits_ms = [wait_s * 1_000 for wait_s in load.waits_s]
    return Serving(
        number,
        contender.name,
        len(waits_ms) / load.took_s,
        percentile(waits_ms, 50),
        percentile(waits_ms, 99),
        spent_s * 1e6 / len(waits_ms),
    )


class _Load:
    """All clients, and how long each answer took."""

    def __init__(self, port: int, *, until_s: float) -> None:
        self.waits_s: list[float] = []
        self.took_s = 0.0
        self._port = port
        self._until_s = until_s

    async def run(self) -> None:
        began_s = time.monotonic()
        await asyncio.gather(*(self._ask() for _ in range(_CLIENTS)))
        self.took_s = time.monotonic() - began_s

    async def _ask(self) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        while (sent_s := time.monotonic()) < self._until_s:
            await _exchange(reader, writer)
            self.waits_s.append(time.monotonic() - sent_s)
        writer.close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_REQUEST)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 204 "):
        raise ContenderFailed(f"an answer was {head.splitlines()[0].decode()}")


async def _warm(port: int) -> None:
    """Wait until a first request is served: then it has its connections, and knows who calls."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        await _exchange(reader, writer)
        writer.close()
        return


async def _add_credential(database_url: str) -> None:
    database = await asyncpg.connect(database_url)
    await database.execute(_CREDENTIAL)
    await database.close()
