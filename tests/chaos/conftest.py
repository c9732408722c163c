"""
The fault matrix: one row for each fault that the parts can have, on real servers and a worker process.

``make chaos`` runs every row at full size and prints a table. Rows marked ``in_suite`` run in ``make test`` too, smaller.
"""

from __future__ import annotations

import functools
import random

import pytest

from configcache_worker.testing import configuration_cache
from tests.chaos.load import Load
from tests.conftest import available

_RESULTS = pytest.StashKey[dict[str, tuple[int, str, str, float]]]()


def pytest_configure(config):
    config.stash[_RESULTS] = {}


def pytest_collection_modifyitems(config, items):
    rows = [item for item in items if item.get_closest_marker("row")]
    if config.getoption("--chaos"):
        rows.sort(key=lambda item: item.get_closest_marker("row").args[0])
        items[:] = [item for item in items if item not in rows] + rows
        return
    left_out = [item for item in rows if not item.get_closest_marker("in_suite")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    row = item.get_closest_marker("row")
    if row:
        results = item.config.stash[_RESULTS]
        number, title = row.args
        *_, before, seconds = results.get(item.nodeid, (number, title, "passed", 0.0))
        outcome = report.outcome if before == "passed" else before
        results[item.nodeid] = (number, title, outcome, seconds + call.duration)
    return report


def pytest_terminal_summary(terminalreporter, config):
    results = sorted(config.stash[_RESULTS].values())
    if not results or not config.getoption("--chaos"):
        return
    terminalreporter.section(f"fault matrix, seed {config.getoption('--chaos-seed')}")
    for number, title, outcome, seconds in results:
        terminalreporter.write_line(f"{number:>3}  {outcome:<7} {seconds:6.1f} s  {title}")
    passed = sum(outcome == "passed" for *_, outcome, _ in results)
    total_s = sum(seconds for *_, seconds in results)
    terminalreporter.write_line(f"{passed} of {len(results)} passed in {total_s:.0f} s")


@pytest.fixture
def scale(request):
    """Chooses between a row's full size and its size in ``make test``: ``scale(25, in_suite=3)``."""
    is_full = request.config.getoption("--chaos")

    def scale(full, *, in_suite):
        return full if is_full else in_suite

    return scale


@pytest.fixture
def rng(request):
    """The row's own random numbers; ``--chaos-seed`` changes them."""
    return random.Random(f"{request.config.getoption('--chaos-seed')} {request.node.name}")


@pytest.fixture
def new_system(servers):
    """Makes systems without a worker in the harness: rows start processes."""
    return functools.partial(configuration_cache, servers=servers, start_worker=False)


@pytest.fixture
async def system(new_system):
    """Virtual host and database of the row, on the servers of the run."""
    with available():
        async with new_system() as system:
            yield system


@pytest.fixture
def load(system):
    """What is published in the row, and the accounts of what became of it."""
    return Load(system.settings)
