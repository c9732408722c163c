"""
The call ``ClearConfigurationCache``: authenticate, read, publish, and only then 204.

What goes wrong is raised; the application around it answers.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from configcache.errors import PublishError
from configcache.publisher import Publisher
from configcache_worker.gateway.authentication import Authenticator, Refusal
from configcache_worker.gateway.body import IncomingBody, reader_for
from configcache_worker.gateway.command import to_command
from configcache_worker.gateway.errors import bad_request, not_queued, refused


class ClearConfigurationCacheCall:
    """
    Serves one request at a time, any number of them side by side.

    Args:
        authenticator: Tells who calls.
        publisher: Takes the command; its own timeout bounds the wait for the broker.
    """

    def __init__(self, *, authenticator: Authenticator, publisher: Publisher) -> None:
        self._authenticator = authenticator
        self._publisher = publisher

    async def __call__(self, request: Request, body: IncomingBody) -> Response:
        """
        Serve *request*. When this returns, the broker has the command on disk, in a queue.

        Raises:
            Unserved: It is not, and why.
            ClientDisconnect: The client has gone before its body had come.
        """
        caller = await self._authenticator.authenticate(request)
        if isinstance(caller, Refusal):
            raise refused(caller)
        read = reader_for(request)
        content = await body.read()
        if not content.strip():
            raise bad_request("the body is empty: it must name Application and Instance")
        command = to_command(read(content), caller)
        traceparent = request.headers.get("traceparent")
        tracestate = traceparent and request.headers.get("tracestate")
        try:
            await self._publisher.publish(command, traceparent=traceparent, tracestate=tracestate)
        except PublishError as error:
            raise not_queued(error) from error
        # Neither a body nor a content type, as HTTP has it for this status.
        return Response(status_code=204)
