"""Dashboard, alert rules and scrape configuration agree with each other, with the compose file and with the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE
from configcache_worker.app import build_gateway, build_relay, build_worker
from configcache_worker.postgres.backlog import Backlog
from configcache_worker.settings import BrokerSettings, DatabaseSettings, Settings, TelemetrySettings

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"


def read_yaml(path: Path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE = read_yaml(PROJECT / "docker-compose.yml")["services"]
DASHBOARD = json.loads((DEPLOY / "grafana/configcache.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
SCRAPES = {job["job_name"]: job for job in read_yaml(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]}
(GROUP,) = read_yaml(DEPLOY / "prometheus/alerts.yml")["groups"]
ALERTS = GROUP["rules"]
OPERATIONS = (PROJECT / "docs/operations.md").read_text(encoding="utf-8")
EXPRESSIONS = {
    *[rule["expr"] for rule in ALERTS],
    *[target["expr"] for panel in PANELS for target in panel["targets"]],
}

OF_RABBITMQ = {
    "rabbitmq_detailed_queue_messages",
    "rabbitmq_detailed_queue_messages_ready",
    "rabbitmq_detailed_queue_messages_unacked",
    "rabbitmq_detailed_queue_consumers",
}
"""Of the families that are scraped. tests/integration/test_broker_metrics.py holds them against a broker."""

OF_PROMETHEUS = {"up"}
FUNCTIONS = {"absent", "count", "histogram_quantile", "increase", "max", "rate", "sum", "vector"}
OPERATORS = {"and", "or", "unless", "on"}


def metrics_of(expression):
    """The names of the metrics in *expression*."""
    bare = re.sub(r'\{[^}]*\}|\[[^\]]*\]|"[^"]*"|\b(?:by|without|on|ignoring) *\([^)]*\)', " ", expression)
    words = set(re.findall(r"[a-zA-Z_:][\w:]*", bare))
    return words - FUNCTIONS - OPERATORS


def names_of(part):
    """The names on the wire of every metric that *part* tells."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    return {
        family.name + suffix for family in part.metrics.registry.collect() for suffix in suffixes[family.type]
    }


@pytest.fixture
async def ours(monkeypatch):
    """The names of every metric of worker, relay and gateway."""
    settings = Settings(
        broker=BrokerSettings(url="amqp://nobody@localhost"),
        database=DatabaseSettings(url="postgresql://nobody@localhost/none"),
    )
    relay = build_relay(settings)
    monkeypatch.setattr(relay, "_waiting", Backlog(rows=0, oldest_s=0.0))
    return names_of(build_worker(settings)) | names_of(relay) | names_of(build_gateway(settings))


async def test_every_metric_that_is_asked_for_exists(ours):
    assert set().union(*map(metrics_of, EXPRESSIONS)) <= ours | OF_RABBITMQ | OF_PROMETHEUS


async def test_whatever_tells_of_the_way_of_commands_is_shown(ours):
    shown = set().union(*map(metrics_of, EXPRESSIONS))
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}

    wanted = {re.sub("_(bucket|sum|count)$", "", name) for name in ours if name.startswith("configcache_")}
    assert wanted <= families


def test_brackets_are_closed():
    for expression in EXPRESSIONS:
        bare = re.sub(r'"[^"]*"', "", expression)
        for opening, closing in ("()", "[]", "{}"):
            assert bare.count(opening) == bare.count(closing), expression


def test_the_queues_that_are_asked_for_are_those_of_the_topology():
    queues = set(re.findall(r'queue="([^"]+)"', " ".join(EXPRESSIONS)))

    assert queues == {COMMAND_QUEUE, DEAD_LETTER_QUEUE}


# --- alerts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_is_complete_and_its_runbook_is_a_heading(rule):
    name = rule["alert"]

    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+m", rule["for"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    assert f"\n### {name}\n" in OPERATIONS


def test_every_alert_that_is_explained_exists():
    assert re.findall(r"^### (Configcache\w+)$", OPERATIONS, re.MULTILINE) == [
        rule["alert"] for rule in ALERTS
    ]


def test_of_every_alert_it_is_said_when_it_fires_and_when_not():
    well, bad, *_ = read_yaml(DEPLOY / "prometheus/alerts_test.yml")["tests"]
    names = [rule["alert"] for rule in ALERTS]

    assert [test["alertname"] for test in well["alert_rule_test"]] == names
    assert [test["alertname"] for test in bad["alert_rule_test"]] == names
    assert not any("exp_alerts" in test for test in well["alert_rule_test"])
    assert all(test["exp_alerts"] for test in bad["alert_rule_test"])


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, which comes with Prometheus, is not here"
)
def test_alerts_fire_when_they_should():
    outcome = subprocess.run(
        ["promtool", "test", "rules", DEPLOY / "prometheus/alerts_test.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


# --- where they come from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "service", "port"),
    [
        ("configcache-worker", "worker", TelemetrySettings().port),
        ("configcache-gateway", "gateway", 9465),
        ("configcache-relay", "relay", 9466),
    ],
)
def test_every_replica_of_a_part_is_scraped_on_the_port_of_its_probes(job, service, port):
    (discovery,) = SCRAPES[job]["dns_sd_configs"]

    assert (discovery["names"], discovery["type"], discovery["port"]) == ([service], "A", port)


def test_the_broker_is_scraped_for_each_queue():
    job = SCRAPES["rabbitmq"]

    assert job["metrics_path"] == "/metrics/detailed"
    assert set(job["params"]["family"]) == {"queue_coarse_metrics", "queue_consumer_count"}
    assert job["static_configs"] == [{"targets": ["broker:15692"]}]
    assert "broker" in COMPOSE


def test_files_are_mounted_where_they_are_looked_for():
    mounted = {
        volume.split(":")[1] for name in ("prometheus", "grafana") for volume in COMPOSE[name]["volumes"]
    }
    prometheus = read_yaml(DEPLOY / "prometheus/prometheus.yml")
    (provider,) = read_yaml(DEPLOY / "grafana/dashboards.yml")["providers"]
    home = COMPOSE["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert set(prometheus["rule_files"]) <= mounted
    assert home in mounted
    assert home.startswith(provider["options"]["path"] + "/")


def test_prometheus_and_grafana_come_with_their_profile_only():
    assert {name for name, service in COMPOSE.items() if service.get("profiles") == ["observability"]} == {
        "prometheus",
        "grafana",
    }


# --- the dashboard ----------------------------------------------------------------------------------------------------


def test_panels_have_a_title_and_a_description_and_do_not_overlap():
    cells = [
        (column, line)
        for panel in PANELS
        for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert all(panel["title"] and panel["description"] for panel in PANELS)
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_dashboard_asks_the_data_source_of_its_reader():
    (variable,) = DASHBOARD["templating"]["list"]
    sources = [panel["datasource"] for panel in PANELS]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]

    assert variable["type"] == "datasource"
    assert all(source == {"type": variable["query"], "uid": f"${{{variable['name']}}}"} for source in sources)
