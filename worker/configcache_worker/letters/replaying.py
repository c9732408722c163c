"""
Replay dead letters: publish each as a command, wait for the confirm, then take the letter out; one after the other.

In this order nothing is ever lost: whatever ends it, a letter is gone only when its command is in the queue. And as no
letter is begun before the last one is out, at most one is published whose letter stays: a command done twice, which is
harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from configcache.topology import COMMAND_EXCHANGE, COMMAND_ROUTING_KEY
from configcache_worker.core.ports import Delivery
from configcache_worker.letters.bounds import USUAL_RATE_PER_S
from configcache_worker.letters.letter import read_letter
from configcache_worker.letters.mending import AS_IT_IS, Mending, Refusal, Replay, prepare
from configcache_worker.letters.selection import EVERYTHING, Selection
from configcache_worker.rabbitmq.letter_box import LetterBox


class Publish(Protocol):
    """What publishes a message, as :meth:`~configcache_worker.rabbitmq.post.Post.publish` does."""

    async def __call__(
        self, body: bytes, properties: bytes, *, message_id: str, exchange: str, routing_key: str
    ) -> None: ...


@dataclass(slots=True)
class Tally:
    """What a run has done so far."""

    replayed: int = 0
    refused: int = 0

    @property
    def seen(self) -> int:
        """Letters that were meant."""
        return self.replayed + self.refused


class Replaying:
    """
    One run over the letters in a box.

    Args:
        box: Where the letters are.
        publish: Publishes a command, or raises. None: only say what would be done.
        report: Told of each letter that is meant, when it is out or when it is refused.
        selection: Which are meant.
        mending: What to change in each.
        most: Letters to replay or refuse at most; None: all that are meant.
        rate_per_s: Letters replayed a second at most.
    """

    def __init__(
        self,
        box: LetterBox,
        publish: Publish | None,
        report: Callable[[Replay | Refusal], None],
        *,
        selection: Selection = EVERYTHING,
        mending: Mending = AS_IT_IS,
        most: int | None = None,
        rate_per_s: float = USUAL_RATE_PER_S,
    ) -> None:
        self.tally = Tally()
        self._box = box
        self._publish = publish
        self._report = report
        self._selection = selection
        self._mending = mending
        self._most = most
        self._pace = Pace(rate_per_s)
        self._stop = asyncio.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the run as soon as the letter in hand is out. Safe to repeat."""
        self._stop.set()

    async def run(self) -> None:
        """
        Replay what is meant.

        Raises:
            PublishError: The broker did not take a command; its letter and all after it stay.
            BrokerUnavailable: The connection was lost. At most one letter stays whose command was published.
        """
        async for delivery in self._box:
            if self.is_stopped:
                return
            letter = read_letter(delivery)
            if not self._selection.includes(letter):
                continue
            outcome = prepare(letter, self._mending, message_id=uuid.uuid4().hex)
            if isinstance(outcome, Refusal):
                self.tally.refused += 1
            elif self._publish is None or await self._replay(outcome, delivery, self._publish):
                self.tally.replayed += 1
            else:
                return
            self._report(outcome)
            if self.tally.seen == self._most:
                return

    async def _replay(self, replay: Replay, delivery: Delivery, publish: Publish) -> bool:
        """Publish, confirm, take out. False: told to stop before."""
        if await self._is_stopped_within(self._pace.delay_s(asyncio.get_running_loop().time())):
            return False
        await self._box.check()  # what is not ours any more may be somebody else's to replay
        await publish(
            replay.body,
            replay.properties,
            message_id=replay.message_id,
            exchange=COMMAND_EXCHANGE,
            routing_key=COMMAND_ROUTING_KEY,
        )
        await self._box.take_out(delivery)
        return True

    async def _is_stopped_within(self, delay_s: float) -> bool:
        if delay_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stop.wait()
        return self.is_stopped


class Pace:
    """So many turns a second, evenly. A turn that was missed is not made up for."""

    def __init__(self, rate_per_s: float) -> None:
        self._interval_s = 1 / rate_per_s
        self._next_s: float | None = None

    def delay_s(self, now_s: float) -> float:
        """Take the next turn: how long to wait for it from *now_s* on."""
        turn_s = now_s if self._next_s is None else max(self._next_s, now_s)
        self._next_s = turn_s + self._interval_s
        return turn_s - now_s
