"""
The least that an HTTP endpoint can do which publishes a command: parse the JSON, await the confirm, answer 204.

Nobody is asked who calls, nothing is checked, and every failure is a 500. Told BROKER_URL and PORT.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from configcache import ClearConfigurationCache, Publisher

PATH = "/api/v1/Agents/Configuration/ClearConfigurationCache"


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with Publisher(url=os.environ["BROKER_URL"], timeout_s=60.0) as app.state.publisher:
        yield


async def clear(request: Request) -> Response:
    body = await request.json()
    await request.app.state.publisher.publish(
        ClearConfigurationCache.for_all(body["Application"], body["Instance"])
    )
    return Response(status_code=204)


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[Route(PATH, clear, methods=["POST"])], lifespan=lifespan),
        port=int(os.environ["PORT"]),
        http="h11",
        loop="asyncio",
        ws="none",
        access_log=False,
        log_level="error",
    )
