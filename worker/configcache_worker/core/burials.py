"""
Take deliveries that can never succeed to the dead letters, beside the clearing and without holding it up.

A delivery is settled only once the broker has its letter. One that can't be published stays open and is tried again.
Memory is bounded twice: where poison comes faster than its letters are confirmed, no more is read until they are; where
none is confirmed any more, the session is ended, and the next one is not opened until a letter has got through.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

import structlog

from configcache.retry import RetryPolicy
from configcache_worker.core.intake import Intake
from configcache_worker.core.ports import Burial, DeadLetters, Letter
from configcache_worker.core.totals import PauseCause, RetryCause, Totals
from configcache_worker.core.waiting import now, wait_for

log = structlog.stdlib.get_logger()

_LETTERS_AT_ONCE: Final = 100


class Burials:
    """
    The dead letters' side of a pipeline.

    Args:
        dead_letters: Where letters go.
        policy: Delays while they can't be published.
        max_held_bytes: Bound of the bytes held for letters that are not confirmed. Reading pauses at half of it, and goes
            on at a quarter.
        most_unburied: So many deliveries may wait for their letters before the dead letters count as unavailable.
        totals: Counts what was buried or rejected.
    """

    def __init__(
        self,
        *,
        dead_letters: DeadLetters,
        policy: RetryPolicy,
        max_held_bytes: int,
        most_unburied: int,
        totals: Totals,
    ) -> None:
        self._dead_letters = dead_letters
        self._policy = policy
        self._pause_bytes = max_held_bytes // 2
        self._resume_bytes = max_held_bytes // 4
        self._most_unburied = most_unburied
        self._totals = totals
        self._intake: Intake | None = None
        self._overflow: Letter | None = None
        self._letters_came = asyncio.Event()
        self._drain_asked = asyncio.Event()

    @property
    def are_unavailable(self) -> bool:
        """Whether too many letters wait; or too much was held, and no letter has got through since."""
        return self._overflow is not None or self.unburied > self._most_unburied

    @property
    def unburied(self) -> int:
        """Deliveries whose letters are not confirmed."""
        return self._intake.unburied if self._intake else 0

    @property
    def held_bytes(self) -> int:
        """Of these."""
        return self._intake.held_bytes if self._intake else 0

    def condemn(self, intake: Intake, letter: Letter) -> None:
        """
        Take over an open delivery of *intake*.

        One that is not held, or can't be read at all, is left to the broker's own dead-lettering. It has its answer with
        the next settlement.
        """
        delivery = letter.delivery
        if delivery.refusal is not None or not delivery.size:
            intake.ledger.refused([delivery.tag])
            self._totals.rejected[letter.reason] += 1
            return
        self._intake = intake
        intake.letters.append(letter)
        intake.unburied += 1
        intake.held_bytes += delivery.size
        self._letters_came.set()
        if intake.held_bytes > self._pause_bytes:
            intake.session.pause()
        self._note_pause()

    def drop_intake(self) -> None:
        """The session has ended: its letters are written anew when the broker hands the messages out again."""
        self._intake = None
        self._note_pause()

    def drain(self) -> None:
        """Ask :meth:`run` to return after one last try for what is waiting."""
        self._drain_asked.set()
        self._letters_came.set()

    async def recover(self) -> None:
        """After an overflow, wait until a letter has got through. It may be there twice then."""
        attempt = 0
        while self._overflow is not None:
            (outcome,) = await self._dead_letters.bury([self._overflow])
            if outcome is Burial.CONFIRMED:
                self._overflow = None
                self._note_pause()
            else:
                attempt += 1
                self._totals.retries[RetryCause.DEAD_LETTERS] += 1
                await asyncio.sleep(self._policy.delay_s(attempt))

    async def run(self) -> None:
        """Bury until drained."""
        failures = 0
        while (intake := await self._letters_waiting()) is not None:
            letters = [intake.letters.popleft() for _ in range(min(len(intake.letters), _LETTERS_AT_ONCE))]
            outcomes = await self._dead_letters.bury(letters)
            settled = self._settle(intake, letters, outcomes)
            if settled == len(letters):
                failures = 0
                continue
            if self._drain_asked.is_set():
                # No more comes that would have to be held. The session lives on: the last acknowledgements need an answer,
                # and somebody to read it.
                intake.session.resume()
                return
            if not settled:
                self._go_without(intake, letters[0])
            failures += 1
            self._totals.retries[RetryCause.DEAD_LETTERS] += 1
            await wait_for(self._drain_asked, timeout_s=self._policy.delay_s(failures))

    def _go_without(self, intake: Intake, letter: Letter) -> None:
        """None of the letters got through: go on reading good commands beside them, or end the session if that can't be."""
        if intake.held_bytes <= self._pause_bytes:
            intake.session.resume()
            return
        self._overflow = letter
        self._note_pause()
        intake.session.end("the dead letters can't be published, and no more can be held meanwhile")

    async def _letters_waiting(self) -> Intake | None:
        """The intake whose letters can be published, or None when drained."""
        while True:
            if (intake := self._intake) and not intake.has_ended and intake.letters:
                return intake
            if self._drain_asked.is_set():
                return None
            self._letters_came.clear()
            await self._letters_came.wait()

    def _settle(self, intake: Intake, letters: Sequence[Letter], outcomes: Sequence[Burial]) -> int:
        """Settle the deliveries whose letters are safe, keep the others. How many were settled."""
        tags: dict[Burial, list[int]] = {outcome: [] for outcome in Burial}
        reasons: Counter[str] = Counter()
        for letter, outcome in zip(letters, outcomes, strict=True):
            tags[outcome].append(letter.delivery.tag)
            if outcome is Burial.UNAVAILABLE:
                intake.letters.append(letter)
            else:
                intake.held_bytes -= letter.delivery.size
                reasons[letter.reason.value] += 1
                counts = self._totals.buried if outcome is Burial.CONFIRMED else self._totals.rejected
                counts[letter.reason] += 1
        settled = reasons.total()
        intake.unburied -= settled
        intake.ledger.refused(tags[Burial.UNENCODABLE])
        intake.done(tags[Burial.CONFIRMED])
        if settled:
            log.warning("letters.buried", count=settled, reasons=dict(reasons))
        if intake.held_bytes <= self._resume_bytes:
            intake.session.resume()
        self._note_pause()
        return settled

    def _note_pause(self) -> None:
        self._totals.pauses.note(PauseCause.DEAD_LETTERS, self.are_unavailable, now())
