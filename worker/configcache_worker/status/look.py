"""Both servers side by side, again and again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from configcache_worker.settings import Settings
from configcache_worker.status import broker, database
from configcache_worker.status.sights import Letters, System


class Looker:
    """
    Looks at the system of *settings*.

    Args:
        settings: The sections ``broker``, ``database`` and ``cache``.
        patience_s: Longest time for all that is asked of one server.
    """

    def __init__(self, settings: Settings, *, patience_s: float) -> None:
        self._settings = settings
        self._patience_s = patience_s
        self._letters: Letters | None = None

    async def look(self) -> System:
        """What is there now. Never fails for what a server does or doesn't."""
        at = datetime.now(UTC)
        on_broker, in_database = await asyncio.gather(
            broker.look(self._settings.broker, patience_s=self._patience_s, known=self._letters),
            database.look(self._settings.database, self._settings.cache, patience_s=self._patience_s),
        )
        letters = on_broker[2]
        # Only what was read: whatever kept it from being read may be over by the next time.
        self._letters = letters if isinstance(letters, Letters) and letters.by_reason is not None else None
        return System(at, *on_broker, *in_database)
