"""The program itself, as a process, on the run's servers."""

from __future__ import annotations

import pytest

from configcache_worker.testing import configuration_cache
from tests.conftest import available


@pytest.fixture
async def system(servers):
    """A system without a worker: the test starts processes."""
    with available():
        async with configuration_cache(servers=servers, start_worker=False) as system:
            yield system
