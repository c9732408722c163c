"""
The container files agree with each other and with the code, as far as that can be seen without an engine.

They repeat names, rights and passwords, and a mistake would otherwise show only in a container that fails.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from configcache.topology import (
    OPERATOR_PERMISSIONS,
    PRODUCER_PERMISSIONS,
    SETUP_PERMISSIONS,
    WORKER_PERMISSIONS,
    Permissions,
)
from configcache_worker.observe.health import HealthServer, Readiness
from configcache_worker.settings import CacheSettings, GatewaySettings, TelemetrySettings, WorkerSettings
from configcache_worker.settings.names import every_setting

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
OUR_IMAGE = "clear-configuration-cache"


def read(path: Path):
    """A compose file, with the defaults of its variables."""
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text(encoding="utf-8")))


COMPOSE = read(PROJECT / "docker-compose.yml")
WORKER_ONLY = read(DEPLOY / "worker-only.yml")
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == OUR_IMAGE}
WORKERS = {"docker-compose.yml": SERVICES["worker"], "worker-only.yml": WORKER_ONLY["services"]["worker"]}
DEFINITIONS = json.loads((DEPLOY / "rabbitmq/definitions.json").read_text(encoding="utf-8"))
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")


def values_of(service):
    """Every text in *service*, wherever it stands."""
    pending = [service]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list):
            pending += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            yield value


def urls(*schemes):
    found = [
        urlsplit(value) for service in SERVICES.values() for value in values_of(service) if "://" in value
    ]
    return [url for url in found if url.scheme in schemes]


def seconds(duration):
    (number,) = re.fullmatch(r"(\d+)s", duration).groups()
    return int(number)


@pytest.mark.parametrize(
    ("user", "permissions"),
    [
        ("setup", SETUP_PERMISSIONS),
        ("worker", WORKER_PERMISSIONS),
        ("producer", PRODUCER_PERMISSIONS),
        ("operator", OPERATOR_PERMISSIONS),
    ],
)
def test_users_of_the_broker_have_the_rights_of_their_role_and_no_more(user, permissions):
    (given,) = [entry for entry in DEFINITIONS["permissions"] if entry["user"] == user]
    (account,) = [entry for entry in DEFINITIONS["users"] if entry["name"] == user]

    assert Permissions(given["configure"], given["write"], given["read"]) == permissions
    assert given["vhost"] == "/"
    assert account["tags"] == []


def test_definitions_leave_exchanges_and_queues_to_the_topology_verb():
    assert set(DEFINITIONS) == {"vhosts", "users", "permissions"}


def test_urls_of_the_broker_name_its_users_with_their_passwords():
    passwords = {user["name"]: user["password"] for user in DEFINITIONS["users"]}

    assert urls("amqp")
    for url in urls("amqp"):
        assert (url.hostname, passwords[url.username]) == ("broker", url.password)


def test_urls_of_the_database_name_its_roles_with_their_passwords():
    roles = (DEPLOY / "postgres/roles.sql").read_text(encoding="utf-8")
    passwords = dict(re.findall(r"CREATE ROLE (\w+) LOGIN PASSWORD '([^']+)'", roles))

    assert urls("postgresql")
    for url in urls("postgresql"):
        assert (url.hostname, passwords[url.username]) == ("database", url.password)
        assert url.path == "/" + SERVICES["database"]["environment"]["POSTGRES_DB"]


@pytest.mark.parametrize(
    ("role", "rights", "table"),
    [
        ("worker", "SELECT, UPDATE, DELETE", CacheSettings().table),
        ("builder", "SELECT, INSERT, UPDATE, DELETE", CacheSettings().table),
        ("relay", "SELECT, UPDATE, DELETE", "configuration_cache_outbox"),
        ("gateway", "SELECT", "gateway_credential"),
    ],
)
def test_each_role_of_the_database_has_the_rights_it_needs_on_one_table_and_nothing_else(role, rights, table):
    statements = (DEPLOY / "postgres/rights.sql").read_text(encoding="utf-8")
    granted = re.findall(rf"^GRANT (.+) ON (.+) TO .*\b{role}\b", statements, re.MULTILINE)

    assert granted == [(rights, table)]


def test_relay_and_gateway_publish_as_producers_and_read_as_themselves():
    for service in ("relay", "gateway"):
        environment = SERVICES[service]["environment"]

        assert urlsplit(environment["CONFIGCACHE_BROKER__URL"]).username == "producer"
        assert urlsplit(environment["CONFIGCACHE_DATABASE__URL"]).username == service


def test_a_gateway_has_longer_to_stop_than_it_takes_to_drain_and_opens_the_port_that_it_serves():
    gateway = SERVICES["gateway"]

    assert seconds(gateway["stop_grace_period"]) >= GatewaySettings().drain_timeout_s + 5
    assert [port.rpartition(":")[2] for port in gateway["ports"]] == [str(GatewaySettings().port)]
    assert f"EXPOSE {GatewaySettings().port} " in DOCKERFILE


@pytest.mark.parametrize(
    ("service", "user"),
    [
        ("worker", "worker"),
        ("publish", "producer"),
        ("demo-publish", "producer"),
        ("dead-letters", "operator"),
    ],
)
def test_each_part_connects_as_the_user_with_the_least_rights(service, user):
    environment = SERVICES[service]["environment"]

    assert {urlsplit(value).username for name, value in environment.items() if name.endswith("__URL")} == {
        user
    }


def test_environment_variables_are_settings():
    known = {setting.variable for setting in every_setting()}
    services = [*OURS.values(), *WORKER_ONLY["services"].values()]
    given = {name for service in services for name in service["environment"]}
    given |= set(re.findall(r"\b(CONFIGCACHE_\w+)=", DOCKERFILE))

    assert {name.removesuffix("_FILE") for name in given} <= known


@pytest.mark.parametrize("worker", WORKERS.values(), ids=WORKERS)
def test_a_worker_has_longer_to_stop_than_it_takes_to_drain(worker):
    assert seconds(worker["stop_grace_period"]) >= WorkerSettings().drain_timeout_s + 5


@pytest.mark.parametrize("worker", WORKERS.values(), ids=WORKERS)
def test_a_worker_publishes_no_port_and_has_no_name_so_that_there_can_be_several(worker):
    assert not {"ports", "container_name", "hostname"} & set(worker)


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ("broker", "database")])
def test_what_is_no_server_runs_without_privileges_on_a_read_only_file_system(name):
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "tmpfs" not in service or name == "grafana"


def test_ports_are_published_on_this_machine_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_has_a_memory_limit():
    assert [name for name, service in SERVICES.items() if "mem_limit" not in service] == []


def test_the_broker_knows_its_memory_limit():
    config = (DEPLOY / "rabbitmq/rabbitmq.conf").read_text(encoding="utf-8")
    (mebibytes,) = re.findall(r"^total_memory_available_override_value = (\d+)MiB$", config, re.MULTILINE)

    assert SERVICES["broker"]["mem_limit"] == f"{mebibytes}m"


def test_mounted_files_exist():
    volumes = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    sources = [volume.partition(":")[0] for volume in volumes]

    assert [source for source in sources if source.startswith(".") and not (PROJECT / source).exists()] == []
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])


def test_images_are_those_of_known_projects_in_a_version_of_their_own():
    stages = set(re.findall(r" AS (\w+)$", DOCKERFILE, re.MULTILINE))
    named = {*re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)} - stages
    named |= {service["image"] for service in SERVICES.values()} - {OUR_IMAGE}

    assert {image.partition(":")[0] for image in named} == {
        "python",
        "rabbitmq",
        "postgres",
        "prom/prometheus",
        "grafana/grafana",
    }
    assert all(re.search(r":v?\d", image) for image in named)


def test_what_the_image_is_built_from_is_sent_to_the_engine():
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = re.findall(r"^COPY ((?!--from).+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]

    assert sources
    assert [source for source in sources if not any(fnmatch(source, pattern) for pattern in sent)] == []
    assert [source for source in sources if not (PROJECT / source).exists()] == []


@pytest.fixture
async def probe():
    """Runs the health check of the image against a worker that is, or is not, ready: its exit code and what it says."""
    readiness = Readiness(ready=True)

    async def answer():
        return readiness

    server = HealthServer("127.0.0.1", 0, readiness=answer)

    async def probe(path, *, reasons=None):
        nonlocal readiness
        readiness = Readiness(ready=not reasons, reasons=reasons or {})
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            DEPLOY / "probe.py",
            path,
            env={"CONFIGCACHE_TELEMETRY__PORT": str(server.port)},
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        return process.returncode, said.decode()

    await server.start()
    yield probe
    await server.stop()


async def test_a_ready_worker_is_healthy(probe):
    assert await probe("/readyz") == (0, "")
    assert await probe("/livez") == (0, "")


async def test_a_worker_that_is_not_ready_is_unhealthy_and_says_why(probe):
    code, said = await probe("/readyz", reasons={"database": "read-only"})

    assert code == 1
    assert json.loads(said)["reasons"] == {"database": "read-only"}


async def test_a_worker_that_is_not_ready_is_alive(probe):
    assert await probe("/livez", reasons={"database": "read-only"}) == (0, "")


def test_a_worker_that_does_not_answer_is_unhealthy(unused_tcp_port):
    environment = {"CONFIGCACHE_TELEMETRY__PORT": str(unused_tcp_port)}
    outcome = subprocess.run(
        [sys.executable, DEPLOY / "probe.py", "/livez"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert outcome.returncode == 1
    assert outcome.stderr.startswith(f"no answer on port {unused_tcp_port}: ")


def test_the_probe_asks_the_port_that_is_the_default():
    probe = (DEPLOY / "probe.py").read_text(encoding="utf-8")

    assert f'"{TelemetrySettings().port}"' in probe
