"""Look at the broker: what waits, who consumes, and why dead letters are there. AMQP tells it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from configcache.connection import BrokerUnavailable
from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE
from configcache_worker.letters import looking as dead_letters
from configcache_worker.rabbitmq.inspection import Counts, Inspection, QueueMissing
from configcache_worker.settings import BrokerSettings
from configcache_worker.status.sights import Broker, Commands, Letters, Unseen, obstacle_to

MOST_LETTERS: Final = 1_000
"""So many dead letters are looked at for their reasons, the first in the queue."""


@dataclass(slots=True)
class Sights:
    """What was seen so far."""

    broker: Broker | Unseen | None = None
    commands: Commands | Unseen | None = None
    letters: Letters | Unseen | None = None


async def look(
    broker: BrokerSettings, *, patience_s: float, known: Letters | None = None
) -> tuple[Broker | Unseen, Commands | Unseen, Letters | Unseen]:
    """
    Look at the server of *broker* and the two queues, within *patience_s* and two seconds more.

    Never fails: what can't be seen says why.

    Args:
        broker: As the worker has it.
        patience_s: Longest time for all of it.
        known: The dead letters as they were seen before. Their reasons are read again only when there are more or fewer:
            whoever looks at letters holds them for a moment, and keeps them from somebody who would mend them.
    """
    seen = Sights()
    looking = _look(broker, seen, patience_s, known)
    obstacle = await obstacle_to(looking, patience_s=patience_s, fault=BrokerUnavailable)
    unasked = Unseen("the broker does not answer" if seen.broker is None else obstacle.why)
    return seen.broker or obstacle, seen.commands or unasked, seen.letters or unasked


async def _look(broker: BrokerSettings, seen: Sights, patience_s: float, known: Letters | None) -> None:
    parts = urlsplit(broker.url)
    user = unquote(parts.username or "guest")
    async with Inspection(
        broker.url,
        timeout_s=min(broker.connect_timeout_s, patience_s),
        heartbeat_s=broker.heartbeat_s,
        name="configcache status",
    ) as looking:
        product = looking.product()
        vhost = unquote(parts.path.removeprefix("/")) or "/"
        seen.broker = Broker(product.name, product.version, looking.address(), vhost, user)
        commands = await _counts(looking, COMMAND_QUEUE, user)
        seen.commands = (
            commands if isinstance(commands, Unseen) else Commands(commands.ready, commands.consumers)
        )
        letters = await _counts(looking, DEAD_LETTER_QUEUE, user)
        if isinstance(letters, Unseen):
            seen.letters = letters
        elif known is not None and known.waiting == letters.ready:
            seen.letters = known
        else:
            # That they wait is the news: it is told even if reading them takes too long.
            seen.letters = Letters(letters.ready, None, None, f"not read in {patience_s:g} s")
            seen.letters = await _letters(looking, broker, letters.ready, user)


async def _counts(looking: Inspection, queue: str, user: str) -> Counts | Unseen:
    try:
        counts = await looking.counts(queue)
    except QueueMissing:
        return Unseen(f"there is no queue {queue}: run `configcache topology`", is_fault=True)
    return Unseen(f"user {user} may not look at {queue}") if counts is None else counts


async def _letters(looking: Inspection, broker: BrokerSettings, waiting: int, user: str) -> Letters:
    """The dead letters, with their reasons where they can be read."""
    if not waiting:
        return Letters(0, 0, {})
    if not await looking.may_consume(DEAD_LETTER_QUEUE):
        return Letters(waiting, None, None, f"user {user} lacks the right to read {DEAD_LETTER_QUEUE}")
    try:
        found = await dead_letters.look(broker, limit=MOST_LETTERS)
    except BrokerUnavailable as error:
        return Letters(waiting, None, None, str(error))
    if not found.looked_at:
        return Letters(waiting, None, None, "they did not come; somebody else is looking at them")
    return Letters(waiting, found.looked_at, found.by_reason())
