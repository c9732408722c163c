"""Where an issuer's keys are: a file, or a URL. Both are read in a thread, within bounds."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Final, NoReturn

from configcache.network import describe_os_error
from configcache_worker.gateway.keys import KeySource, KeysUnavailable

_MOST_BYTES: Final = 1_048_576


def key_source(place: str, *, timeout_s: float = 5.0) -> KeySource:
    """
    What reads the key set at *place*.

    Args:
        place: A URL, or the name of a file.
        timeout_s: For a server to answer.
    """
    return KeyUrl(place, timeout_s=timeout_s) if "://" in place else KeyFile(Path(place))


class KeyFile:
    """A key set in a file. Replaced, it counts a second later."""

    fresh_s = 1.0
    again_s = 1.0

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return str(self._path)

    async def read(self) -> bytes:
        """See :class:`~configcache_worker.gateway.keys.KeySource`."""
        return await asyncio.to_thread(self._read_now)

    def _read_now(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return _bounded(file.read(_MOST_BYTES + 1))
        except OSError as error:
            raise KeysUnavailable(f"the key set can't be read: {describe_os_error(error)}") from error


class KeyUrl:
    """A key set on a server."""

    fresh_s = 300.0
    again_s = 10.0

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._opener = urllib.request.build_opener(_NoRedirects())

    def __repr__(self) -> str:
        return self._url

    async def read(self) -> bytes:
        """See :class:`~configcache_worker.gateway.keys.KeySource`."""
        return await asyncio.to_thread(self._read_now)

    def _read_now(self) -> bytes:
        request = urllib.request.Request(
            self._url, headers={"Accept": "application/jwk-set+json, application/json"}
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return _bounded(answer.read(_MOST_BYTES + 1))
        except urllib.error.HTTPError as error:
            with error:
                raise KeysUnavailable(f"{self._url} answers {error.code} {error.reason}") from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise KeysUnavailable(f"no key set at {self._url}: {reason}") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Who names the keys decides who gets in. That is the server of the settings, and not whom it sends us to."""

    def redirect_request(self, *_: object) -> None:
        return None


def _bounded(document: bytes) -> bytes:
    return document if len(document) <= _MOST_BYTES else _refuse()


def _refuse() -> NoReturn:
    raise KeysUnavailable(f"the key set has more than {_MOST_BYTES:,} bytes")
