"""A steady load, and when each of its commands cleared its row, as the database itself wrote it down."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from benchmarks.amqp import Channel
from configcache_worker.local.servers import Servers

_TICK_S: Final = 0.001
_POSTGRES_EPOCH_S: Final = 946_684_800
_SLOT: Final = "benchmark"
_ASSOCIATE_COLUMN: Final = 2
_BEGIN: Final = struct.Struct(">cqq")
_DELETE: Final = struct.Struct(">cicH")


class Sent(NamedTuple):
    """When commands were due, and when they were written to the socket: seconds since 1970, in order."""

    due: list[float]
    written: list[float]


def publish_steadily(broker_url: str, messages: Sequence[bytes], per_s: float) -> Sent:
    """
    Publish encoded *messages* at an even rate, whatever the broker and the workers do meanwhile.

    What is due is written, at most once in a millisecond; a message's clock starts when it was due, not when it could be
    written, so that a broker that stalls does not look quick.
    """
    with Channel(broker_url) as channel:
        channel.confirm()
        sent = Sent([], [])
        began = time.time()
        done = 0
        while done < len(messages):
            now = time.time()
            due = min(len(messages), int((now - began) * per_s) + 1)
            if due > done:
                channel.publish_now(messages[done:due])
                sent.due.extend(began + number / per_s for number in range(done, due))
                sent.written.extend([time.time()] * (due - done))
                done = due
            time.sleep(max(_TICK_S, began + done / per_s - time.time()))
        channel.take_confirms(most_missing=0)
        return sent


async def keep_journal(servers: Servers) -> None:
    """Let the database server keep what :class:`Journal` reads; it is restarted for that, unless it does already."""
    server = await asyncpg.connect(servers.postgres.url)
    try:
        if await server.fetchval("SHOW wal_level") == "logical":
            return
        await server.execute("ALTER SYSTEM SET wal_level = 'logical'")
    finally:
        await server.close()
    await asyncio.to_thread(servers.postgres.restart)


class Journal:
    """
    When rows were deleted, from the server's write-ahead log: an observer that costs nothing while it observes.

    The log is decoded after the run. Until then the server only keeps it, at the same cost for every contender: nobody
    polls, no trigger fires, and the time is that of the commit, to the microsecond.
    """

    def __init__(self, database: asyncpg.Connection) -> None:
        self._database = database

    async def __aenter__(self) -> Journal:
        await self._database.execute(f"CREATE PUBLICATION {_SLOT} FOR TABLE configuration_cache")
        await self._database.execute(f"SELECT pg_create_logical_replication_slot('{_SLOT}', 'pgoutput')")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._database.execute(f"SELECT pg_drop_replication_slot('{_SLOT}')")

    async def deletions(self) -> dict[int, float]:
        """Associate to time of commit, in seconds since 1970, of all deletions since the journal was opened."""
        changes = await self._database.fetch(
            "SELECT data FROM pg_logical_slot_get_binary_changes"
            f"('{_SLOT}', NULL, NULL, 'proto_version', '1', 'publication_names', '{_SLOT}')"
        )
        return read_changes([change["data"] for change in changes])


def read_changes(changes: Sequence[bytes]) -> dict[int, float]:
    """Read messages of PostgreSQL's logical replication protocol: associate to time of commit, of deletions."""
    found = {}
    committed_s = 0.0
    for change in changes:
        if change[:1] == b"B":
            _, _, microseconds = _BEGIN.unpack_from(change)
            committed_s = _POSTGRES_EPOCH_S + microseconds / 1e6
        elif change[:1] == b"D":
            found[_associate(change)] = committed_s
    return found


def _associate(change: bytes) -> int:
    """The third column of the deleted row's key, each a letter, a length and text, or only ``n`` for null."""
    position = _DELETE.size
    for _ in range(_ASSOCIATE_COLUMN):
        (length,) = struct.unpack_from(">I", change, position + 1)
        position += 5 + length
    (length,) = struct.unpack_from(">I", change, position + 1)
    return int(change[position + 5 : position + 5 + length])
