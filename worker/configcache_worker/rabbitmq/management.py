"""
What a broker's management API tells and AMQP does not: bindings and policies.

For looking only, and for tools only: the worker needs no management API. Requests are made by the standard library, in a
thread.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from configcache.connection import addresses
from configcache.topology import Binding

_DELIVERY_LIMIT: Final = "delivery-limit"


class ManagementUnavailable(Exception):
    """The management API gave no answer, or none to this user. The text is one line without a password."""


class LimitPolicy(NamedTuple):
    """The policies that are in force on a queue, and the delivery limit they set."""

    names: tuple[str, ...]
    delivery_limit: int | None
    """None: they leave it as the queue's arguments have it."""


class ManagementApi:
    """
    The management API of the broker that *broker_url* leads to.

    Args:
        url: Of the API, such as ``http://localhost:15672``. A user and a password in it win over the broker's.
        broker_url: Names the virtual host; and the user and the password, where *url* does not.
        timeout_s: For each request.
    """

    def __init__(self, url: str, *, broker_url: str, timeout_s: float) -> None:
        # Of several hosts one is enough, and not every release of Python takes several.
        api, broker = urlsplit(url), urlsplit(str(addresses(broker_url)[0]))
        credentials = api if api.username else broker
        self._host = api.netloc.rpartition("@")[2]
        self._base = api._replace(netloc=self._host).geturl().rstrip("/")
        self._user = unquote(credentials.username or "guest")
        self._password = unquote(credentials.password or "guest")
        self._vhost = unquote(broker.path.removeprefix("/")) or "/"
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"<ManagementApi at {self._host}>"

    async def bindings(self, queue: str) -> set[Binding]:
        """
        What *queue* gets its messages from.

        Raises:
            ManagementUnavailable: No answer.
        """
        rows = await self._get("queues", self._vhost, queue, "bindings")
        return {Binding(queue, row["source"], row["routing_key"]) for row in rows}

    async def limit_policy(self, queue: str) -> LimitPolicy:
        """
        What policies do to *queue*.

        Raises:
            ManagementUnavailable: No answer.
        """
        row = await self._get("queues", self._vhost, queue)
        names = tuple(row[kind] for kind in ("policy", "operator_policy") if row.get(kind))
        # Both kinds merged by the broker. It is a list where there is none: JSON made by Erlang.
        in_force = row.get("effective_policy_definition") or {}
        return LimitPolicy(names, in_force.get(_DELIVERY_LIMIT))

    async def _get(self, *path: str) -> Any:  # noqa: ANN401 - whatever the broker says
        return await asyncio.to_thread(self._get_now, "/".join(quote(part, safe="") for part in path))

    def _get_now(self, path: str) -> Any:  # noqa: ANN401
        secret = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        try:
            request = urllib.request.Request(
                f"{self._base}/api/{path}", headers={"Authorization": f"Basic {secret}"}
            )
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise ManagementUnavailable(f"{self._host} answers {error.code} {error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ManagementUnavailable(f"no management API at {self._host}: {reason}") from error
