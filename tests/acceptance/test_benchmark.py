"""The benchmark, tiny: it measures who does the work, and gives no figures for who does not."""

from __future__ import annotations

import pytest

from benchmarks import arena
from benchmarks.contenders import BARE_ENDPOINT, GATEWAY, LIMIT, ONE_AT_A_TIME, OURS, Contender
from benchmarks.drain import drain
from benchmarks.gap import gap
from benchmarks.latency import latency
from benchmarks.memory import while_stuck
from benchmarks.programs import ContenderFailed
from benchmarks.publishing import publishing
from benchmarks.results import SCRAPED
from benchmarks.serving import serving
from benchmarks.suite import keep_journal
from benchmarks.telemetry import telemetry
from benchmarks.workloads import distinct, poisoned
from tests.conftest import available

COMMANDS, MANY = 600, 20_000


@pytest.fixture(autouse=True)
def short_rest(monkeypatch):
    """Who shall be measured well waits until the servers are at rest; here, nobody compares figures."""
    monkeypatch.setattr(arena, "_LONGEST_REST_S", 0.5)


def careless(how):
    return Contender(how, how, ("-m", "tests.acceptance.careless_worker", how))


@pytest.mark.parametrize(
    ("contender", "commands"),
    [(ONE_AT_A_TIME, COMMANDS), (LIMIT, MANY)],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_who_does_the_work_is_measured(servers, contender, commands):
    found = await drain(servers, distinct(commands, table_rows=MANY), contender)

    assert found.messages == commands + 2
    assert 0 < found.counted <= found.messages
    assert 0 < found.seconds < 30


async def test_a_drain_is_measured_while_metrics_are_scraped(servers):
    found = await telemetry(servers, told=SCRAPED, count=MANY, number=1)

    assert found.per_s > 0
    assert found.worker_cpu > 0


async def test_poison_is_waited_for(servers):
    workload = poisoned(COMMANDS)

    found = await drain(servers, workload, OURS)

    assert found.messages == COMMANDS + 2


async def test_several_workers_share_a_backlog(servers):
    found = await drain(servers, distinct(MANY), OURS, workers=2)

    assert found.workers == 2


@pytest.mark.parametrize(
    ("how", "timeout_s", "complaint"),
    [
        ("does-nothing", 1, "not done in 1 s"),
        ("keeps-rows", 20, "600 rows left, not 0"),
        ("keeps-messages", 20, "602 messages left, not 0"),
    ],
)
async def test_who_leaves_something_undone_has_no_figure(servers, how, timeout_s, complaint):
    with pytest.raises(ContenderFailed, match=complaint):
        await drain(servers, distinct(COMMANDS), careless(how), timeout_s=timeout_s)


async def test_who_ends_has_no_figure(servers):
    with pytest.raises(ContenderFailed, match="it ended: why"):
        await drain(
            servers,
            distinct(COMMANDS),
            Contender("dead", "dead", ("-c", "import sys; print('why'); sys.exit(3)")),
        )


async def test_latency_and_gap_are_read_from_the_servers_journal(servers):
    with available():
        await keep_journal(servers)

    waits = await latency(servers, OURS, load="100/s", per_s=100, seconds=1)
    silence = await gap(servers, OURS, before_s=0.5, after_s=1)

    assert waits.commands == 100
    assert 0 < waits.p50_ms <= waits.p99_ms <= waits.max_ms
    assert silence.seconds > 0


async def test_publishing_is_measured_with_a_window(servers):
    found = await publishing(servers, window=20, count=300)

    assert found.per_s > 0


@pytest.mark.parametrize("contender", [GATEWAY, BARE_ENDPOINT], ids=lambda contender: contender.name)
async def test_requests_are_measured_and_found_in_the_queue(servers, contender):
    found = await serving(servers, contender, seconds=0.2)

    assert found.per_s > 0
    assert 0 < found.p50_ms <= found.p99_ms


async def test_memory_is_measured_while_the_table_is_locked(servers):
    found = await while_stuck(servers, COMMANDS, stuck_s=0.5)

    assert found.peak_mb > 1
