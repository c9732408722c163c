"""Whole systems on the run's servers."""

from __future__ import annotations

import functools

import pytest

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
