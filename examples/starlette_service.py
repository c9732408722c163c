"""
A web service with one publisher for its whole life. Run it by: uvicorn starlette_service:app

The lifespan is the same for FastAPI: ``FastAPI(lifespan=lifespan)``, and ``request.state.publisher`` in a handler.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from configcache import ClearConfigurationCache, Publisher, PublishError


class State(TypedDict):
    publisher: Publisher


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[State]:
    # The broker need not be there yet: the service starts without it, and a publish tells if it is missing.
    async with Publisher(url=os.environ["BROKER_URL"], app_id="config-editor", timeout_s=3) as publisher:
        yield {"publisher": publisher}


async def save_layout(request: Request) -> Response:
    # ... write the layout to your database, and commit. Then:
    command = ClearConfigurationCache.for_all("WebClient", request.path_params["instance"])
    try:
        await request.state.publisher.publish(command, traceparent=request.headers.get("traceparent"))
    except PublishError as error:
        # The layout is saved and the cache is not cleared: say so, and let the caller try again. Where nobody can
        # try again, put the command into your own transaction: see configcache.outbox.
        return JSONResponse({"saved": True, "cleared": False, "error": str(error)}, status_code=503)
    return Response(status_code=204)


app = Starlette(routes=[Route("/layouts/{instance}", save_layout, methods=["PUT"])], lifespan=lifespan)
