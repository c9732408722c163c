"""The worker, noting on the board in the file ``BOARD`` what it has cleared; run as a program."""

import os
import sys
from pathlib import Path

from configcache_worker.__main__ import main
from configcache_worker.core.clearing import Clearing
from tests.freshness.board import Board, slots_of


def note_passes(board: Board) -> None:
    """Let every pass of the worker be noted: what was published before it began is cleared when it has ended."""
    original = Clearing._pass

    async def noted(self, group):
        slots = [slot for work in group for slot in slots_of(work.scope.instance, work.scope.associate_id)]
        published = [board.published(slot) for slot in slots]
        cleared = await original(self, group)
        for slot, version in zip(slots, published, strict=True):
            board.clear(slot, version)
        return cleared

    Clearing._pass = noted


if __name__ == "__main__":
    note_passes(Board(Path(os.environ.pop("BOARD"))))
    sys.exit(main())
