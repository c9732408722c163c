"""
Throw dead letters away: first hold those that are meant, then, if somebody has agreed, take each out.

What was shown to whoever agrees is what is thrown away, since nobody else can have it meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from configcache_worker.core.ports import Delivery
from configcache_worker.letters.letter import read_letter
from configcache_worker.letters.selection import Selection, Summary, summarize
from configcache_worker.rabbitmq.letter_box import LetterBox


class Held(NamedTuple):
    """A letter that is in our hands: its bytes are gone, the broker has them."""

    delivery: Delivery
    summary: Summary


async def hold(box: LetterBox, selection: Selection, *, most: int | None = None) -> list[Held]:
    """Hold the letters in *box* that *selection* means, *most* of them at most."""
    held: list[Held] = []
    async for delivery in box:
        letter = read_letter(delivery)
        if selection.includes(letter):
            held.append(Held(delivery._replace(body=b"", envelope=None, size=0), summarize(letter)))
        if len(held) == most:
            break
    return held


async def take_out(box: LetterBox, held: Sequence[Held]) -> AsyncIterator[Summary]:
    """
    Take each of *held* out of the queue, for ever, one by one.

    Raises:
        BrokerUnavailable: The connection was lost; those that were given are gone, all others but one are there.
    """
    for one in held:
        await box.take_out(one.delivery)
        yield one.summary
