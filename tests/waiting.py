"""Waiting for a condition, never for a time."""

import asyncio
import inspect

_POLL_S = 0.005


async def eventually(condition, *, timeout_s=15.0):
    """Wait until *condition*, a function or coroutine function, gives something true; give that back."""
    async with asyncio.timeout(timeout_s):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(_POLL_S)
