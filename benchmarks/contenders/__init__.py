"""Who is measured. Each module here is a program of its own: an example of how its library is used, tuned in its favour."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.contenders import envelope
from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE


@dataclass(frozen=True)
class Contender:
    """A worker, as a program, and where it looks for commands."""

    name: str
    title: str
    arguments: tuple[str, ...]
    """What follows the interpreter on its command line."""
    deletes: bool = True
    """Whether it clears rows; otherwise it only takes messages off the queue, and says itself when."""
    queue: str = COMMAND_QUEUE
    dead_letters: str = DEAD_LETTER_QUEUE
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it is told beside the URLs."""
    own_queues: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Queues that it needs beside the topology, with their arguments."""

    @property
    def command(self) -> list[str]:
        """Its command line."""
        return [sys.executable, *self.arguments]

    def wrap(self, body: bytes) -> bytes:
        """The message that carries *body* to this worker."""
        return body if self.queue == COMMAND_QUEUE else envelope.wrap(body)


def _program(name: str) -> tuple[str, ...]:
    return ("-m", f"benchmarks.contenders.{name}")


OURS: Final = Contender("configcache", "configcache worker", ("-m", "configcache_worker", "worker"))
LIMIT: Final = Contender("limit", "the broker's limit: only acks", _program("broker_limit"), deletes=False)
BATCHED: Final = Contender("batched", "aio-pika, in batches", _program("batched"))
DRAMATIQ: Final = Contender(
    "dramatiq",
    "Dramatiq",
    (
        *("-m", "dramatiq", "benchmarks.contenders.dramatiq_worker"),
        *("--processes", "1", "--threads", "8", "--skip-logging"),
    ),
    queue=envelope.QUEUE,
    dead_letters=envelope.DEAD_LETTERS,
    environment={"dramatiq_queue_prefetch": "400"},
    own_queues={envelope.QUEUE: envelope.QUEUE_ARGUMENTS},
)
ONE_AT_A_TIME: Final = Contender("one-at-a-time", "aio-pika, one at a time", _program("one_at_a_time"))
FASTSTREAM: Final = Contender("faststream", "FastStream", _program("faststream_worker"))

CONTENDERS: Final = (OURS, LIMIT, BATCHED, DRAMATIQ, ONE_AT_A_TIME, FASTSTREAM)

GATEWAY: Final = Contender("gateway", "configcache gateway", ("-m", "configcache_worker", "gateway"))
BARE_ENDPOINT: Final = Contender(
    "bare-endpoint", "a bare Starlette endpoint", _program("bare_endpoint"), deletes=False
)
