"""Whole systems on the run's servers."""

from __future__ import annotations

import functools

import pytest

from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.rabbitmq import RabbitMQ
from configcache_worker.testing import configuration_cache
from tests.conftest import available


@pytest.fixture
def new_system(servers):
    """Makes systems with settings of the test's choice."""
    return functools.partial(configuration_cache, servers=servers)


@pytest.fixture
async def system(new_system):
    """A system with the default settings."""
    with available():
        async with new_system() as system:
            yield system


@pytest.fixture(scope="session")
def managed(tmp_path_factory):
    """A broker with its management API: the two URLs, and the node."""
    plugins = tmp_path_factory.mktemp("managed") / "enabled_plugins"
    plugins.write_text("[rabbitmq_management].")
    (port,) = free_ports(1)
    node = RabbitMQ(
        config={"management.tcp.ip": LOOPBACK, "management.tcp.port": str(port)},
        environment={"RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins)},
    )
    with available(), node:
        yield node.url, f"http://{LOOPBACK}:{port}", node
