"""The doctor on real servers: what is wrong is found, what is told to mend it does, and nothing is touched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache import ClearConfigurationCache
from configcache.connection import close_connection, connect
from configcache.topology import (
    COMMAND_EXCHANGE,
    COMMAND_QUEUE,
    COMMAND_ROUTING_KEY,
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_QUEUE,
    EVENT_EXCHANGE,
    WORKER_PERMISSIONS,
    Permissions,
)
from configcache_worker.doctor import CHECKS, State, examine
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.postgres.migrations import migrate
from configcache_worker.rabbitmq.declare import declare
from tests.users import permit, user
from tests.waiting import eventually

NOT_TOLD_BY_AMQP = {"bindings", "delivery-limit"}


@pytest.fixture
def diagnose(monkeypatch, tmp_path):
    """Examines what *environment* names: the findings by check, several where a check found several things."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CONFIGCACHE_")]:
        monkeypatch.delenv(name)

    async def diagnose(
        broker_url=None, database_url=None, *, management_url=None, patience_s=30.0, **environment
    ):
        urls = {"CONFIGCACHE_BROKER__URL": broker_url, "CONFIGCACHE_DATABASE__URL": database_url}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (urls | environment).items():
                if value is not None:
                    patch.setenv(name, value)
            findings = await examine(management_url=management_url, patience_s=patience_s)
        assert list(dict.fromkeys(finding.check for finding in findings)) == list(CHECKS)
        return {check: [finding for finding in findings if finding.check == check] for check in CHECKS}

    return diagnose


def checks_in(diagnosis, state):
    return {
        check for check, findings in diagnosis.items() if any(finding.state is state for finding in findings)
    }


@contextlib.asynccontextmanager
async def connected(url):
    connection = await connect(url, name="test", timeout_s=10, heartbeat_s=10)
    yield connection
    await close_connection(connection)


@pytest.fixture
async def topology(vhost):
    """A virtual host with all in it."""
    async with connected(vhost) as connection:
        await declare(connection, may_declare=True)
    return vhost


def as_user(url, name):
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
def broker_user(rabbitmq, topology):
    """A user without any rights in the virtual host: its URL."""
    with user(rabbitmq, topology, Permissions("", "", "")) as url:
        yield url


@pytest.fixture
async def sql(migrated):
    connection = await asyncpg.connect(migrated)
    yield connection
    await connection.close()


@pytest.fixture
async def role(migrated, sql):
    """A role without any rights on the table: its name."""
    name = urlsplit(migrated).path[1:].replace("test", "role")
    await sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield name
    await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_where_all_is_well_only_what_amqp_does_not_tell_is_open(diagnose, system):
    diagnosis = await diagnose(system.settings.broker.url, system.settings.database.url)

    assert checks_in(diagnosis, State.SKIPPED) == NOT_TOLD_BY_AMQP
    assert checks_in(diagnosis, State.OK) == set(CHECKS) - NOT_TOLD_BY_AMQP
    assert diagnosis["consumers"][0].text == "1 worker consumes"


async def test_without_settings_every_check_says_so(diagnose):
    diagnosis = await diagnose()

    assert [finding.text.partition(":")[0] for finding in diagnosis["settings"]] == [
        "broker.url is missing",
        "database.url is missing",
    ]
    assert checks_in(diagnosis, State.SKIPPED) == set(CHECKS) - {"settings"}


async def test_a_misspelt_setting_keeps_nobody_from_looking_at_the_others(diagnose, topology, migrated):
    diagnosis = await diagnose(topology, migrated, CONFIGCACHE_WORKER__PREFECH="1")

    (settings,) = diagnosis["settings"]
    assert settings.state is State.WRONG
    assert "did you mean CONFIGCACHE_WORKER__PREFETCH" in settings.text
    assert checks_in(diagnosis, State.WRONG) == {"settings"}


async def test_empty_servers_are_mended_by_the_two_verbs(diagnose, vhost, database):
    before = await diagnose(vhost, database)
    async with connected(vhost) as connection:
        await declare(connection, may_declare=True)
    await migrate(database, schema="public")
    after = await diagnose(vhost, database)

    assert {(check, before[check][0].mend) for check in checks_in(before, State.WRONG)} == {
        ("topology", "configcache topology"),
        ("migrations", "configcache migrate"),
        ("table", "configcache migrate"),
    }
    assert checks_in(after, State.WRONG) == set()


async def test_the_database_is_examined_though_the_broker_is_down(diagnose, migrated):
    (port,) = free_ports(1)

    diagnosis = await diagnose(f"amqp://worker:hidden@{LOOPBACK}:{port}/", migrated)

    assert checks_in(diagnosis, State.WRONG) == {"broker"}
    assert diagnosis["database-writes"][0].state is State.OK
    assert diagnosis["dead-letters"][0].text == "not checked: first mend broker"


async def test_the_broker_is_examined_though_the_database_is_down(diagnose, topology):
    (port,) = free_ports(1)

    diagnosis = await diagnose(topology, f"postgresql://worker:hidden@{LOOPBACK}:{port}/app")

    assert checks_in(diagnosis, State.WRONG) == {"database"}
    assert diagnosis["topology"][0].state is State.OK


async def test_servers_that_take_connections_and_stay_silent_are_given_up(diagnose):
    async def listen(reader, writer):
        connections.append(writer)

    connections = []
    async with await asyncio.start_server(listen, LOOPBACK, 0) as server:
        port = server.sockets[0].getsockname()[1]
        diagnosis = await diagnose(
            f"amqp://worker:hidden@{LOOPBACK}:{port}/",
            f"postgresql://worker:hidden@{LOOPBACK}:{port}/app",
            patience_s=0.2,
        )
        for writer in connections:
            writer.close()

    assert checks_in(diagnosis, State.WRONG) == {"broker", "database"}
    assert diagnosis["broker"][0].text == "no answer in 0.2 s"


async def test_passwords_are_not_shown(diagnose):
    (port,) = free_ports(1)

    diagnosis = await diagnose(
        f"amqp://w:hidden@{LOOPBACK}:{port}/", f"postgresql://w:hidden@{LOOPBACK}:{port}/"
    )

    assert "hidden" not in repr(diagnosis)


async def test_a_queue_with_other_arguments_is_told_in_the_brokers_words(diagnose, vhost, migrated):
    async with connected(vhost) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        await channel.queue_declare(COMMAND_QUEUE, durable=True)

    diagnosis = await diagnose(vhost, migrated)

    (arguments,) = diagnosis["arguments"]
    assert arguments.state is State.WRONG
    assert "inequivalent arg" in arguments.text
    assert COMMAND_QUEUE in arguments.mend
    assert diagnosis["dead-letters"][0].text == f"not checked: {DEAD_LETTER_QUEUE} is missing"


async def test_the_least_rights_of_a_worker_are_enough(diagnose, rabbitmq, broker_user, migrated):
    permit(rabbitmq, broker_user, WORKER_PERMISSIONS)

    diagnosis = await diagnose(broker_user, migrated)

    assert checks_in(diagnosis, State.WRONG) == set()
    assert diagnosis["broker-rights"][0].state is State.OK
    (arguments,) = diagnosis["arguments"]
    assert arguments.state is State.SKIPPED
    assert "takes the right to configure" in arguments.text


async def test_missing_rights_on_the_broker_are_mended_by_the_command_given(
    diagnose, rabbitmq, broker_user, migrated
):
    before = await diagnose(broker_user, migrated)
    (rights,) = before["broker-rights"]
    program, *arguments = shlex.split(rights.mend)
    rabbitmq.ctl(*arguments)
    after = await diagnose(broker_user, migrated)

    assert program == "rabbitmqctl"
    assert rights.state is State.WRONG
    for lacking in (
        f"read {COMMAND_QUEUE}",
        f"write to {DEAD_LETTER_EXCHANGE}",
        f"write to {EVENT_EXCHANGE}",
    ):
        assert lacking in rights.text
    assert after["broker-rights"][0].state is State.OK


async def test_not_being_allowed_to_tell_events_is_only_a_warning(diagnose, rabbitmq, broker_user, migrated):
    permit(rabbitmq, broker_user, Permissions("", f"^{DEAD_LETTER_EXCHANGE}$", f"^{COMMAND_QUEUE}$"))

    diagnosis = await diagnose(broker_user, migrated)

    (rights,) = diagnosis["broker-rights"]
    name = urlsplit(broker_user).username
    assert (rights.state, rights.text) == (State.WARNING, f"user {name} may not write to {EVENT_EXCHANGE}")


async def test_looking_touches_neither_commands_nor_dead_letters(diagnose, new_system):
    async with new_system(start_worker=False) as system:
        await system.publish(ClearConfigurationCache.for_all("WebClient", "Web"))

        diagnosis = await diagnose(system.settings.broker.url, system.settings.database.url)

        async with connected(system.settings.broker.url) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            command = await channel.basic_get(COMMAND_QUEUE, no_ack=True)
        assert not command.delivery.redelivered
        assert await system.bench.depth(COMMAND_QUEUE) == 0
        assert await system.dead_letters() == []
    assert diagnosis["queue"][0].text == "1 command waits"
    assert diagnosis["consumers"][0].state is State.WARNING


async def test_dead_letters_that_wait_are_a_warning(diagnose, system):
    await system.publish_raw(b"not JSON", b"nor this")
    await system.settled()

    diagnosis = await diagnose(system.settings.broker.url, system.settings.database.url)

    (letters,) = diagnosis["dead-letters"]
    assert (letters.state, letters.text) == (State.WARNING, f"2 messages wait in {DEAD_LETTER_QUEUE}")
    assert checks_in(diagnosis, State.WRONG) == set()


async def test_missing_rights_on_the_table_are_mended_by_the_statement_given(
    diagnose, topology, migrated, sql, role
):
    before = await diagnose(topology, as_user(migrated, role))
    (rights,) = before["database-rights"]
    await sql.execute(rights.mend)
    after = await diagnose(topology, as_user(migrated, role))

    assert checks_in(before, State.WRONG) == {"database-rights"}
    assert checks_in(after, State.WRONG) == set()
    assert after["database-writes"][0].state is State.OK
    (migrations,) = after["migrations"]
    assert migrations.state is State.SKIPPED
    assert "42501" in migrations.text


async def test_a_missing_right_on_the_schema_is_mended_by_the_statement_given(
    diagnose, topology, migrated, sql, role
):
    await sql.execute("CREATE SCHEMA own; CREATE TABLE own.configuration_cache ()")

    before = await diagnose(topology, as_user(migrated, role), CONFIGCACHE_CACHE__SCHEMA="own")
    (rights,) = before["database-rights"]
    await sql.execute(rights.mend)
    after = await diagnose(topology, as_user(migrated, role), CONFIGCACHE_CACHE__SCHEMA="own")

    assert rights.state is State.WRONG
    assert after["database-rights"][0].text == "not checked: first mend migrations"


async def test_a_table_of_ones_own_is_mended_by_the_statements_given(diagnose, topology, migrated, sql):
    await sql.execute("CREATE TABLE pages (app text, inst text NOT NULL, who numeric NOT NULL)")
    own = {
        "CONFIGCACHE_CACHE__TABLE": "pages",
        "CONFIGCACHE_CACHE__COLUMNS__APPLICATION": "app",
        "CONFIGCACHE_CACHE__COLUMNS__INSTANCE": "inst",
        "CONFIGCACHE_CACHE__COLUMNS__ASSOCIATE": "who",
        "CONFIGCACHE_CACHE__COLUMNS__ITEM": "",
    }

    before = await diagnose(topology, migrated, **own)
    for finding in before["table"]:
        await sql.execute(finding.mend)
    after = await diagnose(topology, migrated, **own)

    assert checks_in(before, State.WRONG) == {"table"}
    assert len(before["table"]) == 3
    assert checks_in(after, State.WRONG) == set()
    assert after["migrations"][0].text == 'not needed: "public"."pages" is a table of your own'


async def test_a_database_that_only_reads_is_wrong(diagnose, topology, migrated):
    diagnosis = await diagnose(topology, f"{migrated}?default_transaction_read_only=on")

    assert checks_in(diagnosis, State.WRONG) == {"database-writes"}
    (writes,) = diagnosis["database-writes"]
    assert "25006" in writes.text
    assert "target_session_attrs=read-write" in writes.mend


async def test_a_migration_that_was_changed_after_it_was_applied_is_wrong(diagnose, topology, migrated, sql):
    await sql.execute("UPDATE configcache_migration SET checksum = 'other'")

    diagnosis = await diagnose(topology, migrated)

    assert checks_in(diagnosis, State.WRONG) == {"migrations"}
    assert "has changed since it was applied" in diagnosis["migrations"][0].text


# --- the management API -----------------------------------------------------------------------------------------------


@pytest.fixture
async def managed_topology(managed):
    async with connected(managed[0]) as connection:
        await declare(connection, may_declare=True)


async def on_management(diagnose, migrated, managed, url=None):
    broker_url, management_url, _ = managed
    diagnosis = await diagnose(broker_url, migrated, management_url=url or management_url)
    return diagnosis["bindings"] + diagnosis["delivery-limit"]


@pytest.mark.usefixtures("managed_topology")
async def test_with_the_management_api_bindings_and_policies_are_checked_too(diagnose, migrated, managed):
    findings = await on_management(diagnose, migrated, managed)

    assert [finding.state for finding in findings] == [State.OK, State.OK]


@pytest.mark.usefixtures("managed_topology")
async def test_a_missing_binding_is_found(diagnose, migrated, managed):
    async with connected(managed[0]) as connection:
        channel = await (await connection.channel()).get_underlay_channel()
        await channel.queue_unbind(COMMAND_QUEUE, COMMAND_EXCHANGE, COMMAND_ROUTING_KEY)

    bindings, _ = await on_management(diagnose, migrated, managed)

    assert (bindings.state, bindings.mend) == (State.WRONG, "configcache topology")
    assert bindings.text == f"not bound: {COMMAND_EXCHANGE} to {COMMAND_QUEUE}"


@pytest.mark.usefixtures("managed_topology")
async def test_a_policy_that_lowers_the_delivery_limit_is_a_warning(diagnose, migrated, managed):
    async def limit():
        return (await on_management(diagnose, migrated, managed))[1]

    async def limit_is_lowered():
        finding = await limit()
        return finding if finding.state is State.WARNING else None

    _, _, node = managed
    node.ctl("set_policy", "strict", ".*", '{"delivery-limit": 20}', "--apply-to", "queues")
    lowered = await eventually(limit_is_lowered)
    node.ctl("clear_policy", "strict")

    assert lowered.text.startswith("lowered to 20 by strict: ")
    assert lowered.mend == "take delivery-limit out of strict"


@pytest.mark.usefixtures("managed_topology")
async def test_an_alarm_that_stops_publishers_is_told_and_the_queues_all_the_same(
    diagnose, migrated, managed
):
    broker_url, _, node = managed

    node.ctl("set_vm_memory_high_watermark", "0.0001")
    diagnosis = await diagnose(broker_url, migrated)
    node.ctl("set_vm_memory_high_watermark", "absolute", "1GB")

    assert checks_in(diagnosis, State.WRONG) == {"alarms"}
    assert diagnosis["broker-rights"][0].text == "not checked: first mend alarms"
    assert diagnosis["queue"][0].text == "0 commands wait"


@pytest.mark.usefixtures("managed_topology")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda url: url.replace("//", "//guest:wrong@"), "answers 401"),
        (lambda url: url + "/elsewhere", "answers 4"),
        (lambda url: f"http://{LOOPBACK}:{free_ports(1)[0]}", "no management API at"),
        (lambda url: "http://localhost:port", "no management API at"),
    ],
    ids=["wrong password", "another path", "nobody listens", "no port"],
)
async def test_a_management_api_that_does_not_answer_is_told(diagnose, migrated, managed, change, words):
    findings = await on_management(diagnose, migrated, managed, change(managed[1]))

    assert [finding.state for finding in findings] == [State.SKIPPED, State.SKIPPED]
    assert words in findings[0].text
    assert "wrong@" not in findings[0].text
