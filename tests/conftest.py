"""
The servers, for tests that name what they need: one pair for the whole run, started when first asked for.

Without a server a test is skipped at a desk, with the ways to get one, and fails where ``CI=true``: there, a suite that
skipped what matters must not look green.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from configcache_worker.local.errors import ServerUnavailable
from configcache_worker.local.postgres import PostgreSQL
from configcache_worker.local.rabbitmq import RabbitMQ
from configcache_worker.local.servers import Servers
from tests import tables
from tests.process import start_process


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fault matrix; see ``tests/chaos``."""
    parser.addoption("--chaos", action="store_true", help="run every row of the fault matrix, at full size")
    parser.addoption("--chaos-seed", default="1", help="random moments of the fault matrix")
    parser.addoption("--reads", type=int, default=100_000, help="of the racing readers in the fault matrix")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is here now, tests and libraries: it stays until the end."""
    gc.freeze()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The pair itself; nothing is started yet."""
    with Servers.from_environment() as servers:
        yield servers


@pytest.fixture(scope="session")
def configuration_cache_servers(servers: Servers) -> Servers:
    """The plugin's fixtures use the run's pair, too."""
    return servers


@pytest.fixture(scope="session")
def rabbitmq(servers: Servers) -> RabbitMQ:
    """The private broker of the run. Who stops it starts it again: it is everybody's."""
    with available():
        return servers.rabbitmq


@pytest.fixture(scope="session")
def postgres(servers: Servers) -> PostgreSQL:
    """The private database server of the run. Who stops it starts it again: it is everybody's."""
    with available():
        return servers.postgres


@pytest.fixture
def vhost(servers: Servers) -> Iterator[str]:
    """The URL of a new, empty virtual host."""
    with available(), servers.vhost() as url:
        yield url


@pytest.fixture
def database(servers: Servers) -> Iterator[str]:
    """The URL of a new, empty database."""
    with available(), servers.database() as url:
        yield url


@pytest.fixture
def migrated(servers: Servers) -> Iterator[str]:
    """The URL of a new database with the tables in it."""
    with available(), servers.database(tables.migrated) as url:
        yield url


@pytest.fixture
def start_worker(tmp_path):
    """Starts worker processes; those still running at the end are killed."""
    with ExitStack() as stack:
        yield functools.partial(start_process, stack, tmp_path)


@contextmanager
def available() -> Iterator[None]:
    """Turn the lack of a server into a skip, or into a failure in CI."""
    try:
        yield
    except ServerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
