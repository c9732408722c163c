"""The doctor looks at a gateway: may it publish, may it look callers up and nothing else, can it judge tokens?"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache.connection import close_connection, connect
from configcache.topology import PRODUCER_PERMISSIONS, Permissions
from configcache_worker.doctor import State
from configcache_worker.doctor.gateway import GATEWAY_CHECKS, examine_gateway
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.rabbitmq.declare import declare
from tests.conftest import available
from tests.tables import migrated
from tests.users import permit, user

DATABASE_CHECKS = ("database", "credentials", "credential-rights")


@pytest.fixture(scope="module")
def database(servers):
    """The URL of a migrated database, for all tests here."""
    with available(), servers.database(migrated) as url:
        yield url


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def role(database, sql):
    """A role of the gateway's, without any rights yet: its name."""
    name = urlsplit(database).path[1:].replace("test", "doctor")
    await sql.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield name
    await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def diagnose(monkeypatch, tmp_path):
    """Examines for a gateway what *environment* names: the one finding of each check."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CONFIGCACHE_")]:
        monkeypatch.delenv(name)

    async def diagnose(**environment):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(f"CONFIGCACHE_{name.upper()}", value)
            findings = await examine_gateway()
        assert [finding.check for finding in findings] == list(GATEWAY_CHECKS)
        return {finding.check: finding for finding in findings}

    return diagnose


@pytest.fixture
def broker():
    """Where no broker is."""
    (port,) = free_ports(1)
    return f"amqp://{LOOPBACK}:{port}/"


def as_user(url, name):
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}").geturl()


async def test_the_least_rights_are_enough_on_broker_and_database(
    diagnose, rabbitmq, vhost, database, sql, role
):
    connection = await connect(vhost, name="test", timeout_s=10, heartbeat_s=10)
    await declare(connection, may_declare=True)
    await close_connection(connection)
    await sql.execute(f"GRANT SELECT ON gateway_credential TO {role}")

    with user(rabbitmq, vhost, Permissions("", "", "")) as broker_url:
        urls = {"broker__url": broker_url, "database__url": as_user(database, role)}
        before = await diagnose(**urls)
        permit(rabbitmq, broker_url, PRODUCER_PERMISSIONS)
        after = await diagnose(**urls)

    assert before["broker-rights"].state is State.WRONG
    assert PRODUCER_PERMISSIONS.write in before["broker-rights"].mend
    assert {finding.check: finding.text for finding in after.values() if finding.state is not State.OK} == {
        "keys": "not checked: Bearer is not accepted"
    }


async def test_a_missing_right_is_mended_by_the_statement_given(diagnose, broker, database, sql, role):
    urls = {"broker__url": broker, "database__url": as_user(database, role)}

    before = (await diagnose(**urls))["credential-rights"]
    await sql.execute(before.mend)
    after = (await diagnose(**urls))["credential-rights"]

    assert (before.state, after.state) == (State.WRONG, State.OK)


@pytest.mark.parametrize(
    ("grant", "words"),
    [
        ("SELECT, DELETE ON gateway_credential", "may do more than read"),
        ("SELECT ON gateway_credential, configuration_cache", "rights on the table of the cached rows"),
    ],
    ids=["the view", "the cache"],
)
async def test_more_rights_than_needed_are_told(diagnose, broker, database, sql, role, grant, words):
    await sql.execute(f"GRANT {grant} TO {role}")

    finding = (await diagnose(broker__url=broker, database__url=as_user(database, role)))["credential-rights"]

    assert finding.state is State.WARNING
    assert words in finding.text


async def test_a_superuser_is_told(diagnose, broker, database):
    finding = (await diagnose(broker__url=broker, database__url=database))["credential-rights"]

    assert (finding.state, "superuser" in finding.text) == (State.WARNING, True)


async def test_a_view_with_other_columns_is_told_with_those_that_are_wrong(diagnose, broker, servers):
    with available(), servers.database() as url:
        connection = await asyncpg.connect(url)
        missing = (await diagnose(broker__url=broker, database__url=url))["credentials"]
        await connection.execute(
            "CREATE VIEW gateway_credential AS SELECT 'a'::varchar AS kind, 'b' AS name, 1 AS associate_id,"
            " 'yes' AS may_clear_all, now()::timestamp AS expires_at"
        )
        wrong = (await diagnose(broker__url=broker, database__url=url))["credentials"]
        await connection.close()

    assert missing.mend == "configcache migrate"
    assert wrong.state is State.WRONG
    assert [part.partition(": ")[2] or part for part in wrong.text.split("; ")] == [
        "column secret_hash is missing",
        "column may_clear_all is of type text, not boolean",
        "column expires_at is of type timestamp without time zone, not timestamp with time zone",
    ]


async def test_where_tokens_alone_are_accepted_no_database_is_needed(diagnose, broker, tmp_path):
    (tmp_path / "jwks.json").write_text('{"keys": []}')
    online = {
        "gateway__installation": "online",
        "gateway__ticket": "off",
        "gateway__session": "off",
        "gateway__jwt__issuer": "https://id.example",
        "gateway__jwt__audience": "configcache",
        "gateway__jwt__jwks": "jwks.json",
    }

    diagnosis = await diagnose(broker__url=broker, **online)

    assert diagnosis["settings"].state is State.OK
    assert {diagnosis[check].state for check in DATABASE_CHECKS} == {State.SKIPPED}
    assert (diagnosis["keys"].state, diagnosis["broker"].state) == (State.WRONG, State.WRONG)


async def test_without_settings_every_check_says_so(diagnose):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONFIGCACHE_BROKER__URL", "http://wrong")
        patch.setenv("CONFIGCACHE_GATEWAY__BASIC", "wrong")
        findings = await examine_gateway()

    assert {finding.check for finding in findings if finding.state is State.WRONG} == {"settings"}
    assert {finding.check for finding in findings if finding.state is State.SKIPPED} == set(
        GATEWAY_CHECKS
    ) - {"settings"}
