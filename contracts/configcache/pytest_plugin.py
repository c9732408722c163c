"""
Fixtures for services that publish: a publisher in memory, and the whole system on private servers.

Registered with pytest by the installation. Nothing but pytest is imported until a fixture is requested, so whoever has
this package installed and does not use it waits for nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from configcache.recording import BlockingRecordingPublisher, RecordingPublisher
    from configcache_worker.testing import ConfigurationCacheSystem, Servers

__all__ = [
    "blocking_recording_publisher",
    "configuration_cache",
    "configuration_cache_servers",
    "recording_publisher",
]


@pytest.fixture
def recording_publisher() -> RecordingPublisher:
    """A ``configcache.Publisher`` in memory: ``commands`` is what was published, ``fail()`` makes it fail."""
    from configcache.recording import RecordingPublisher

    publisher = RecordingPublisher()
    publisher.open()
    return publisher


@pytest.fixture
def blocking_recording_publisher() -> Iterator[BlockingRecordingPublisher]:
    """The same in the place of a ``configcache.blocking.Publisher``."""
    from configcache.recording import BlockingRecordingPublisher

    with BlockingRecordingPublisher() as publisher:
        yield publisher


@pytest.fixture(scope="session")
def configuration_cache_servers() -> Iterator[Servers]:
    """
    A RabbitMQ and a PostgreSQL for all tests of the process, those that ``CONFIGCACHE_TEST_..._URL`` name or private ones.

    Where there are none, tests that need them are skipped, or fail if the environment says ``CI=true``.
    """
    try:
        from configcache_worker.testing import Servers
    except ModuleNotFoundError as error:
        pytest.fail(_missing(error), pytrace=False)
    with Servers.from_environment() as servers:
        with _available():
            servers.start()
        yield servers


@pytest.fixture
def configuration_cache(
    configuration_cache_servers: Servers,
) -> Callable[..., AbstractAsyncContextManager[ConfigurationCacheSystem]]:
    """
    A real worker between a real broker and a real database, each test with a virtual host and a database of its own::

        async with configuration_cache() as system:
            ...

    Takes the arguments of ``configcache_worker.testing.configuration_cache``.
    """
    from configcache_worker import testing

    @contextlib.asynccontextmanager
    async def start(**arguments: object) -> AsyncIterator[ConfigurationCacheSystem]:
        async with contextlib.AsyncExitStack() as stack:
            with _available():
                whole = testing.configuration_cache(**{"servers": configuration_cache_servers, **arguments})  # type: ignore[arg-type]
                system = await stack.enter_async_context(whole)
            yield system

    return start


@contextlib.contextmanager
def _available() -> Iterator[None]:
    """Turn the lack of a server into a skip, or into a failure in CI."""
    from configcache_worker.testing import ServerUnavailable

    try:
        yield
    except ServerUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def _missing(error: ModuleNotFoundError) -> str:
    return (
        f"{error}: the fixture configuration_cache needs the extra [testing]: "
        'pip install "clear-configuration-cache[testing]"'
    )
