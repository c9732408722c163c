"""The verbs against real servers: exit codes, what is printed, and what has changed."""

from __future__ import annotations

import asyncio
import json
import os
import re
from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache import ClearConfigurationCache, decode
from configcache.connection import close_connection, connect
from configcache.topology import COMMAND_QUEUE, TOPOLOGY, Permissions
from configcache_worker.__main__ import main
from configcache_worker.doctor import CHECKS
from configcache_worker.local.ports import LOOPBACK, free_ports
from tests.users import user

PUBLISH = ["publish", "--application", "WebClient", "--instance", "Web"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, vhost, database):
    """Runs the program on an empty virtual host and an empty database: exit code, and lines of both outputs."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CONFIGCACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CONFIGCACHE_BROKER__URL", vhost)
    monkeypatch.setenv("CONFIGCACHE_DATABASE__URL", database)

    def run(*arguments):
        code = main(arguments)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


def on_broker(vhost, act):
    """What the coroutine function *act* gives on a channel."""

    async def connected():
        connection = await connect(vhost, name="test", timeout_s=10, heartbeat_s=10)
        try:
            return await act(await (await connection.channel()).get_underlay_channel())
        finally:
            await close_connection(connection)

    return asyncio.run(connected())


def in_database(database, act):
    """What the coroutine function *act* gives on a connection."""

    async def connected():
        connection = await asyncpg.connect(database)
        try:
            return await act(connection)
        finally:
            await connection.close()

    return asyncio.run(connected())


def the_command(vhost):
    """The only message in the commands' queue."""
    message = on_broker(vhost, lambda channel: channel.basic_get(COMMAND_QUEUE, no_ack=True))
    assert message.delivery.message_count == 0
    return message


# --- topology ---------------------------------------------------------------------------------------------------------


def test_topology_creates_everything_and_may_be_repeated(run):
    first = run("topology")
    second = run("topology")

    assert first[0] == 0
    assert sorted(first[1][:-1]) == sorted(
        [f"created exchange {exchange.name}" for exchange in TOPOLOGY.exchanges]
        + [f"created queue {queue.name}" for queue in TOPOLOGY.queues]
    )
    assert first[1][-1] == "the topology is as it must be"
    assert second == (0, ["the topology is as it must be: all of it was there"], [])
    assert run("topology", "--check") == second


@pytest.mark.parametrize("arguments", [["topology"], ["topology", "--check"]])
def test_topology_says_what_a_user_without_rights_could_not_find_out(
    run, monkeypatch, rabbitmq, vhost, arguments
):
    run("topology")
    with user(rabbitmq, vhost, Permissions("^(configuration)$", ".*", ".*")) as url:
        monkeypatch.setenv("CONFIGCACHE_BROKER__URL", url)

        code, out, err = run(*arguments)

    assert (code, err) == (0, [])
    (line,) = out
    assert line.startswith("all of it exists; its arguments could not be compared: ")
    assert set(line.rpartition("lacks the configure right on ")[2].split(", ")) == {
        entity.name for entity in (*TOPOLOGY.exchanges, *TOPOLOGY.queues) if entity.name != "configuration"
    }


def test_topology_check_names_what_is_missing_and_creates_nothing(run):
    names = {entity.name for entity in (*TOPOLOGY.exchanges, *TOPOLOGY.queues)}

    for _ in range(2):
        code, out, err = run("topology", "--check")

        assert (code, out) == (1, [])
        assert {re.match(r"configcache topology: (\S+) is missing: ", line)[1] for line in err} == names


def test_topology_changes_nothing_where_a_queue_differs(run, vhost):
    on_broker(vhost, lambda channel: channel.queue_declare(COMMAND_QUEUE, durable=True))

    code, out, err = run("topology")

    assert (code, out) == (1, [])
    (line,) = err
    assert line.startswith(f"configcache topology: {COMMAND_QUEUE} is different: ")
    assert "inequivalent arg" in line


# --- migrate ----------------------------------------------------------------------------------------------------------


def test_migrate_applies_once_what_the_dry_run_announced(run, database):
    announced = run("migrate", "--dry-run")
    applied = run("migrate")
    again = run("migrate")

    assert announced[0] == applied[0] == again[0] == 0
    assert [line.removeprefix("would apply ") for line in announced[1]] == [
        line.removeprefix("applied ") for line in applied[1]
    ]
    assert again[1] == ["schema public is up to date"]
    assert in_database(database, lambda sql: sql.fetchval("SELECT count(*) FROM configuration_cache")) == 0


def test_migrate_takes_the_schema_of_the_settings(run, monkeypatch, database):
    monkeypatch.setenv("CONFIGCACHE_CACHE__SCHEMA", "Cache")

    code, out, err = run("migrate")

    assert (code, err) == (0, [])
    assert all(line.endswith(" in schema Cache") for line in out)
    assert (
        in_database(database, lambda sql: sql.fetchval('SELECT count(*) FROM "Cache".configuration_cache'))
        == 0
    )


@pytest.mark.parametrize(("variable", "name"), [("TABLE", "cache.table"), ("COLUMNS__ITEM", "cache.columns")])
def test_migrate_says_that_it_does_not_touch_a_table_of_ones_own(run, monkeypatch, variable, name):
    monkeypatch.setenv(f"CONFIGCACHE_CACHE__{variable}", "xml")

    code, out, _ = run("migrate")

    assert code == 0
    assert "standard table" in out[-1]
    assert f"{name} describes is not touched" in out[-1]


def test_migrate_without_the_right_to_create_is_a_failure_in_one_line(run, monkeypatch, database):
    monkeypatch.setenv("CONFIGCACHE_DATABASE__URL", f"{database}?default_transaction_read_only=on")

    code, out, err = run("migrate")

    assert (code, out) == (1, [])
    (line,) = err
    assert "read-only" in line


# --- publish ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whose", "told", "command"),
    [
        (
            ["--associate", "42"],
            "associate 42",
            ClearConfigurationCache.for_associate("WebClient", "Web", 42),
        ),
        (["--for-all-associates"], "all associates", ClearConfigurationCache.for_all("WebClient", "Web")),
    ],
)
def test_publish_puts_one_command_into_the_queue(run, vhost, whose, told, command):
    run("topology")

    outcome = run(*PUBLISH, *whose)

    assert outcome == (0, [f"published: clear WebClient / Web for {told}"], [])
    message = the_command(vhost)
    assert decode(message.body) == command
    assert message.header.properties.delivery_mode == 2
    assert message.header.properties.app_id == "configcache publish"


def test_publish_without_a_topology_says_what_to_do(run):
    code, out, err = run(*PUBLISH, "--for-all-associates", "--timeout", "2")

    assert (code, out) == (1, [])
    (line,) = err
    assert line.startswith("configcache publish: not published: ")
    assert "configcache topology" in line


def test_publish_into_a_broker_without_the_binding_says_that_nobody_would_get_it(run, vhost):
    run("topology")
    (binding,) = [binding for binding in TOPOLOGY.bindings if binding.queue == COMMAND_QUEUE]
    on_broker(
        vhost, lambda channel: channel.queue_unbind(binding.queue, binding.exchange, binding.routing_key)
    )

    code, out, err = run(*PUBLISH, "--for-all-associates")

    assert (code, out) == (1, [])
    assert "no queue is bound" in err[0]


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_shows_the_servers_without_their_passwords(run, vhost, database):
    code, out, err = run("settings")

    assert (code, err) == (0, [])
    assert any(line.startswith("broker.url ") and urlsplit(vhost).path in line for line in out)
    for url in (vhost, database):
        assert not any(f":{urlsplit(url).password}@" in line for line in out)


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_says_what_would_mend_empty_servers_and_then_that_it_has(run):
    code, out, err = run("doctor")
    commands = {line.partition("  -> ")[2] for line in out if line.startswith("wrong ")}
    for command in commands:
        program, *arguments = command.split()
        assert program == "configcache"
        assert run(*arguments)[0] == 0

    assert (code, err) == (1, ["configcache doctor: wrong: topology, migrations, table"])
    assert commands == {"configcache topology", "configcache migrate"}
    assert run("doctor")[0] == 0


def test_doctor_prints_a_line_for_each_check(run):
    run("topology")
    run("migrate")

    code, out, err = run("doctor")

    assert (code, err) == (0, [])
    assert [line.split()[1] for line in out] == list(CHECKS)
    assert {line.split()[0] for line in out} == {"ok", "warning", "skipped"}


def test_doctor_speaks_json(run):
    code, out, err = run("doctor", "--json")

    answer = json.loads("\n".join(out))
    assert (code, answer["well"]) == (1, False)
    assert {"check", "state", "text", "mend"} == set(answer["findings"][0])
    assert {finding["check"] for finding in answer["findings"]} == set(CHECKS)
    assert err == ["configcache doctor: wrong: topology, migrations, table"]


def test_doctor_survives_that_nothing_is_there(run, monkeypatch):
    broker, database = free_ports(2)
    monkeypatch.setenv("CONFIGCACHE_BROKER__URL", f"amqp://w:hidden@{LOOPBACK}:{broker}/")
    monkeypatch.setenv("CONFIGCACHE_DATABASE__URL", f"postgresql://w:hidden@{LOOPBACK}:{database}/app")

    code, out, err = run("doctor", "--config", "absent.toml")

    assert (code, err) == (1, ["configcache doctor: wrong: settings, broker, database"])
    assert len(out) == len(CHECKS)
    assert "hidden" not in "".join(out)


def test_doctor_takes_no_management_url_that_is_none_and_does_not_repeat_it(run):
    code, out, err = run("doctor", "--management", "guest:hidden@localhost:15672")

    assert (code, out) == (2, [])
    assert "must begin with http://" in err[-1]
    assert "hidden" not in "".join(err)
