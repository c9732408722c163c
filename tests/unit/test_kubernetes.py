"""The Kubernetes example agrees with the settings' defaults, the image and the probes, as far as its text tells."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from configcache_worker.observe import health
from configcache_worker.settings import TelemetrySettings, WorkerSettings
from configcache_worker.settings.names import every_setting

PROJECT = Path(__file__).parents[2]
EXAMPLE = (PROJECT / "deploy/kubernetes/worker.yml").read_text(encoding="utf-8")
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
DEPLOYMENT, BUDGET = yaml.safe_load_all(EXAMPLE)
TEMPLATE = DEPLOYMENT["spec"]["template"]
POD = TEMPLATE["spec"]
(WORKER,) = POD["containers"]
PORT = TelemetrySettings().port


def test_it_is_a_deployment_and_its_disruption_budget():
    assert (DEPLOYMENT["apiVersion"], DEPLOYMENT["kind"]) == ("apps/v1", "Deployment")
    assert (BUDGET["apiVersion"], BUDGET["kind"]) == ("policy/v1", "PodDisruptionBudget")


def test_whoever_selects_the_pods_selects_them_by_their_labels():
    labels = TEMPLATE["metadata"]["labels"]

    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert BUDGET["spec"]["selector"]["matchLabels"] == labels
    assert BUDGET["spec"]["minAvailable"] < DEPLOYMENT["spec"]["replicas"]


def test_probes_ask_the_default_port_by_the_name_of_the_container_port():
    (port,) = WORKER["ports"]
    probes = [WORKER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]

    assert port == {"name": "telemetry", "containerPort": PORT}
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert [probe["path"] for probe in probes] == ["/livez", "/livez", "/readyz"]


def test_a_server_that_is_away_never_gets_a_worker_killed():
    assert "readyz" not in str(WORKER["livenessProbe"]) + str(WORKER["startupProbe"])


def test_the_readiness_probe_waits_longer_than_the_worker_takes_to_answer():
    assert WORKER["readinessProbe"]["timeoutSeconds"] > health._READINESS_TIMEOUT_S


def test_a_worker_has_longer_to_stop_than_it_takes_to_drain():
    assert POD["terminationGracePeriodSeconds"] >= WorkerSettings().drain_timeout_s + 5


def test_metrics_are_scraped_from_the_port_of_the_probes():
    annotations = TEMPLATE["metadata"]["annotations"]

    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
    }


def test_it_runs_as_the_user_of_the_image_without_privileges_on_a_read_only_file_system():
    (user, group) = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE).groups()

    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] == int(user)
    assert POD["securityContext"]["runAsGroup"] == int(group)
    assert POD["automountServiceAccountToken"] is False
    assert WORKER["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_environment_variables_are_settings_and_secrets_come_from_secrets():
    known = {setting.variable: setting for setting in every_setting()}

    for variable in WORKER["env"]:
        assert variable["name"] in known
        assert ("valueFrom" in variable) == variable["name"].endswith("__URL")
    (secret,) = {
        variable["valueFrom"]["secretKeyRef"]["name"] for variable in WORKER["env"] if "valueFrom" in variable
    }
    assert f"secret generic {secret} " in EXAMPLE


def test_the_image_is_that_of_the_compose_file_in_a_version():
    compose = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))
    name, _, version = WORKER["image"].partition(":")

    assert name == compose["services"]["worker"]["image"]
    assert f'version = "{version}"' in (PROJECT / "pyproject.toml").read_text(encoding="utf-8")


def test_it_gets_the_memory_that_the_compose_file_grants():
    assert WORKER["resources"]["limits"]["memory"] == "256Mi"
