"""Whole systems on the run's servers."""

from __future__ import annotations

import functools

import pytest

from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.rabbitmq import RabbitMQ
from configcache_worker.testing import configuration_cache
from tests.conftest import available
from tests.tables import migrated


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


@pytest.fixture
def outbox_url(servers):
    """The URL of a new database with an outbox."""
    with available(), servers.database(migrated) as url:
        yield url


@pytest.fixture(scope="session")
def broker_metrics_port():
    """Where the managed broker serves its metrics."""
    (port,) = free_ports(1)
    return port


@pytest.fixture(scope="session")
def managed(tmp_path_factory, broker_metrics_port):
    """A broker with its management API: the two URLs, and the node."""
    plugins = tmp_path_factory.mktemp("managed") / "enabled_plugins"
    plugins.write_text("[rabbitmq_management, rabbitmq_prometheus].")
    (port,) = free_ports(1)
    node = RabbitMQ(
        config={
            "management.tcp.ip": LOOPBACK,
            "management.tcp.port": str(port),
            "prometheus.tcp.ip": LOOPBACK,
            "prometheus.tcp.port": str(broker_metrics_port),
        },
        environment={
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            # A queue reports so often, in milliseconds. Usually every 5 s.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-rabbit quorum_tick_interval 100",
        },
    )
    with available(), node:
        yield node.url, f"http://{LOOPBACK}:{port}", node
