"""
The settlement ledger of one session: which deliveries are open, and what may be told to the broker.

Pure. A tag is open from its arrival until somebody reports it done (acknowledge) or refused (reject); :meth:`take` then
gives the shortest settlement that covers every report and touches no open tag.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from configcache_worker.core.ports import Settlement


class Ledger:
    """Open and finished tags of one session. Tags arrive in the order 1, 2, 3, …"""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._done: list[int] = []
        self._refused: list[int] = []
        self._lowest = 1
        """No tag below this one is open."""
        self._highest = 0

    def __repr__(self) -> str:
        return f"<Ledger open={len(self._open)} highest={self._highest}>"

    @property
    def open_count(self) -> int:
        """Deliveries that we owe an answer."""
        return len(self._open)

    def opened(self, tags: Sequence[int]) -> None:
        """Enter deliveries that have just arrived, one at least, in their order."""
        self._open.update(tags)
        self._highest = tags[-1]

    def done(self, tags: Collection[int]) -> None:
        """
        Report deliveries to acknowledge.

        Raises:
            KeyError: One of them is not open; settling it again would close the channel.
        """
        self._close(tags, self._done)

    def refused(self, tags: Collection[int]) -> None:
        """
        Report deliveries to reject, so that the broker dead-letters them.

        Raises:
            KeyError: One of them is not open.
        """
        self._close(tags, self._refused)

    def take(self) -> Settlement | None:
        """
        What has been reported since the last time, or None if nothing has.

        The ``multiple`` acknowledgement names a tag that was itself reported since the last time: naming one that is
        settled already makes the broker search for it in vain and close the channel.
        """
        if not self._done and not self._refused:
            return None
        lowest_open = self._advance()
        below = [tag for tag in self._done if tag < lowest_open]
        above = [tag for tag in self._done if tag > lowest_open]
        settlement = Settlement(rejects=self._refused, ack_up_to=max(below, default=None), acks=above)
        self._done, self._refused = [], []
        return settlement

    def _close(self, tags: Collection[int], finished: list[int]) -> None:
        still_open = len(self._open) - len(tags)
        self._open.difference_update(tags)
        if len(self._open) != still_open:
            raise KeyError(f"a tag was reported twice, or never opened, among {len(tags)}")
        finished += tags

    def _advance(self) -> int:
        """The lowest open tag, or one past the highest tag seen."""
        while self._lowest <= self._highest and self._lowest not in self._open:
            self._lowest += 1
        return self._lowest
