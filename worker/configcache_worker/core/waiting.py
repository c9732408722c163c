"""Time and waiting, on the event loop's clock."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds on the event loop's clock."""
    return asyncio.get_running_loop().time()


async def wait_for(event: asyncio.Event, *, timeout_s: float | None) -> None:
    """Wait until *event* is set or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
