"""The program itself, as a process, on the run's servers."""

from __future__ import annotations

import contextlib
import functools

import pytest

from configcache_worker.testing import configuration_cache
from tests.acceptance.process import WorkerProcess
from tests.conftest import available


@pytest.fixture
async def system(servers):
    """A system without a worker: the test starts processes."""
    with available():
        async with configuration_cache(servers=servers, start_worker=False) as system:
            yield system


@pytest.fixture
def start_worker(tmp_path):
    """Starts worker processes; those still running at the end are killed."""
    with contextlib.ExitStack() as stack:
        yield functools.partial(_start, stack, tmp_path)


def _start(stack, folder, settings, **environment):
    return stack.enter_context(WorkerProcess(settings, folder=folder, environment=environment))
