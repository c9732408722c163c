"""
Servers that somebody else runs, lent for tests: a virtual host or a database of ours on them, and nothing else touched.

A virtual host can't be created over AMQP, so a foreign broker must offer its management API where RabbitMQ does by
default (port 15672, or 15671 with TLS), to the user of its AMQP URL.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from urllib.parse import SplitResult, quote, unquote, urlsplit

from configcache.network import describe_os_error
from configcache_worker.local import databases
from configcache_worker.local.errors import ServerUnavailable

_TIMEOUT_S = 10.0
_NOT_FOUND = 404


class ForeignRabbitMQ:
    """A broker named by its AMQP *url*; its management API is looked for where it usually is unless named too."""

    def __init__(self, url: str, *, management_url: str | None = None) -> None:
        self._url = urlsplit(url)
        self._user = unquote(self._url.username or "guest")
        self._password = unquote(self._url.password or "guest")
        self._management_url = management_url or _usual_management_url(self._url)

    def __repr__(self) -> str:
        return f"<ForeignRabbitMQ {self._url.hostname}>"

    def create_vhost(self, name: str) -> str:
        """
        Create a virtual host, all of it open to the URL's user.

        Returns:
            Its URL.

        Raises:
            ServerUnavailable: The management API is not there or does not allow it.
        """
        vhost = quote(name, safe="")
        self._request("PUT", f"vhosts/{vhost}", {})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._request("PUT", f"permissions/{vhost}/{quote(self._user, safe='')}", everything)
        return self._url._replace(path=f"/{vhost}").geturl()

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all in it. Nothing happens if there is none."""
        self._request("DELETE", f"vhosts/{quote(name, safe='')}", may_be_missing=True)

    def _request(
        self, method: str, path: str, content: dict[str, str] | None = None, *, may_be_missing: bool = False
    ) -> None:
        secret = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        request = urllib.request.Request(
            f"{self._management_url}/api/{path}",
            method=method,
            headers={"Authorization": f"Basic {secret}", "Content-Type": "application/json"},
            data=None if content is None else json.dumps(content).encode(),
        )
        try:
            urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
        except OSError as error:
            if may_be_missing and isinstance(error, urllib.error.HTTPError) and error.code == _NOT_FOUND:
                return
            raise ServerUnavailable(
                f"the broker of CONFIGCACHE_TEST_BROKER_URL must let its user manage virtual hosts "
                f"(tag administrator) by the management API on {self._management_url}: {_reason(error)}"
            ) from error


class ForeignPostgreSQL:
    """A database server named by the *url* of one of its databases, whose user may create others."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def __repr__(self) -> str:
        return f"<ForeignPostgreSQL {self._url.hostname}>"

    def create_database(self, name: str, template: str | None = None) -> str:
        """
        Create a database: empty, or a copy of *template*.

        Returns:
            Its URL.

        Raises:
            ServerFailed: The server's words.
        """
        databases.create_database(self._url.geturl(), name, template)
        return self._url._replace(path=f"/{quote(name, safe='')}").geturl()

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its connections. Nothing happens if there is none."""
        databases.drop_database(self._url.geturl(), name)


def _reason(error: OSError) -> str:
    """In words, also where urllib has put the system's error into its own."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return describe_os_error(cause) if isinstance(cause, OSError) else str(error)


def _usual_management_url(url: SplitResult) -> str:
    scheme, port = ("https", 15671) if url.scheme == "amqps" else ("http", 15672)
    host = url.hostname or "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
