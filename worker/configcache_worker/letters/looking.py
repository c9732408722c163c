"""
Look at dead letters and leave them where they are.

While a look lasts, its letters are held: nobody else sees them, and they are missing from the queue's depth. When it ends
they are all back, in about their order. Before RabbitMQ 4.3 every look counts as a delivery of each letter, which is why
the queue's delivery limit is as high as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from configcache_worker.letters.bounds import USUAL_LOOK
from configcache_worker.letters.letter import DeadLetter, read_letter
from configcache_worker.letters.opening import open_box
from configcache_worker.letters.selection import EVERYTHING, Selection, Summary, summarize
from configcache_worker.rabbitmq.letter_box import LetterBox
from configcache_worker.settings import BrokerSettings


@dataclass(frozen=True, slots=True)
class Look:
    """What a look has found."""

    letters: Sequence[Summary]
    """What was meant, in about the order of the queue."""
    looked_at: int
    """How many letters were looked at, also those that were not meant."""
    more: int
    """Further letters that were ready and not looked at."""
    missing: int
    """Letters that were there and did not come: somebody else has taken them, or the broker is slow."""
    others: int
    """Consumers that were there before: what they hold is nowhere in these figures."""

    def by_reason(self) -> dict[str, int]:
        """How many of the letters have which reason; the most frequent first."""
        return dict(Counter(letter.reason for letter in self.letters).most_common())


async def look(broker: BrokerSettings, *, limit: int = USUAL_LOOK, selection: Selection = EVERYTHING) -> Look:
    """
    Look at up to *limit* dead letters, and keep a summary of those that *selection* means.

    In memory there is a summary of each, not its body. Takes well under a second for a thousand.

    Raises:
        BrokerUnavailable: No connection, no such queue, or no right to read it; the text says which.
    """
    async with open_box(broker, most=limit) as box:
        letters = [summarize(letter) async for letter in read(box, selection)]
        return Look(
            letters,
            looked_at=box.handed_out,
            more=await box.not_looked_at(),
            missing=box.missing,
            others=box.found.consumers,
        )


async def read(box: LetterBox, selection: Selection) -> AsyncIterator[DeadLetter]:
    """The letters in *box* that *selection* means."""
    async for delivery in box:
        letter = read_letter(delivery)
        if selection.includes(letter):
            yield letter
