"""Waiting for a condition, never for a time."""

import asyncio
import inspect
import time

_POLL_S, _LONGEST_POLL_S = 0.005, 0.1


async def eventually(condition, *, timeout_s=15.0):
    """
    Wait until *condition*, a function or coroutine function, gives something true; give that back.

    Between two looks passes as long as a look took: some open connections, and who only looks must not keep the
    processor from those who work.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            began_s = time.monotonic()
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(min(max(_POLL_S, time.monotonic() - began_s), _LONGEST_POLL_S))
