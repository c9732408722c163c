"""Gateways whose callers a test makes up, and what is sent to them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import httpx

from configcache.recording import RecordingPublisher
from configcache_worker.gateway.asgi import CALL_PATH, GatewayApplication
from configcache_worker.gateway.authentication import Associate
from configcache_worker.gateway.endpoint import ClearConfigurationCacheCall
from configcache_worker.gateway.openapi import document

JSON = "application/json"
SAMPLE = b'{"Application":"sed","Instance":"officia","ForAllAssociates":true}'
"""The body of the classic reference."""

BODIES = {
    JSON: SAMPLE,
    "text/json": SAMPLE,
    "application/merge-patch+json": SAMPLE,
    "application/json-patch+json": b'[{"op":"add","path":"/Application","value":"sed"},'
    b'{"op":"add","path":"/Instance","value":"officia"},{"op":"add","path":"/ForAllAssociates","value":true}]',
    "application/xml": b"<ClearConfigurationCacheRequest><Application>sed</Application><Instance>officia</Instance>"
    b"<ForAllAssociates>true</ForAllAssociates></ClearConfigurationCacheRequest>",
    "text/xml": b"<r><Application>sed</Application><Instance>officia</Instance>"
    b"<ForAllAssociates>true</ForAllAssociates></r>",
    "application/x-www-form-urlencoded": b"Application=sed&Instance=officia&ForAllAssociates=true",
}
"""The same in every content type."""

ADMINISTRATOR = Associate(id=42, may_clear_all=True)
ANYBODY = Associate(id=7, may_clear_all=False)


NO_SECURITY = ({}, [])


class Calls:
    """An authenticator to whom everybody is *caller*."""

    def __init__(self, caller=ADMINISTRATOR):
        self.caller = caller

    async def authenticate(self, request):
        return self.caller


def application(
    publisher, *, authenticator=None, security=NO_SECURITY, answered=lambda status, duration_s: None, **limits
):
    """The application, as the gateway has it."""
    schemes, requirements = security
    return GatewayApplication(
        call=ClearConfigurationCacheCall(authenticator=authenticator or Calls(), publisher=publisher),
        openapi=document(root_path="", security_schemes=schemes, security=requirements),
        answered=answered,
        **{
            "root_path": "",
            "max_concurrency": 10,
            "max_body_bytes": 65_536,
            "receive_timeout_s": 5,
            **limits,
        },
    )


class Client:
    """Sends requests to *app* within this process, and knows what was published."""

    def __init__(self, http, publisher):
        self.http = http
        self.publisher = publisher

    async def call(self, content=SAMPLE, content_type=JSON, *, path=CALL_PATH, method="POST", **headers):
        """The answer to the call; headers are named with underscores."""
        headers = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        if content_type is not None:
            headers["content-type"] = content_type
        return await self.http.request(method, path, content=content, headers=headers)


@contextlib.asynccontextmanager
async def in_process(*, authenticator=None, publisher=None, **options) -> AsyncIterator[Client]:
    """A gateway without a server, whose broker is a list."""
    async with publisher or RecordingPublisher() as publisher:
        app = application(publisher, authenticator=authenticator, **options)
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            yield Client(http, publisher)
