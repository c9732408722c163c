"""Callers are looked up in one view, by a role that may do nothing else, whoever's tables are behind it."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache_worker.gateway.passwords import hash_password
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.servers import Servers
from configcache_worker.postgres.connection import TimeLimits
from configcache_worker.postgres.credentials import (
    CredentialsUnavailable,
    PostgresCredentials,
    StoredCredential,
)
from tests.conftest import available
from tests.tables import migrated

RIGHTS = Path(__file__).parents[2] / "deploy/postgres/rights.sql"
INSERT = """
INSERT INTO gateway_stored_credential (kind, name, secret_hash, associate_id, may_clear_all, expires_at)
VALUES ($1, $2, $3, $4, $5, $6::text::timestamptz)"""


@pytest.fixture(scope="module")
def database(servers: Servers):
    """The URL of a migrated database, for all tests here."""
    with available(), servers.database(migrated) as url:
        yield url


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    await connection.execute("TRUNCATE gateway_stored_credential")
    yield connection
    await connection.close()


def store_at(url, **arguments):
    return PostgresCredentials(url, schema="public", limits=TimeLimits(), **arguments)


@pytest.fixture
async def store(database):
    store = store_at(database)
    yield store
    await store.close()


def hashed(secret):
    return hashlib.sha256(secret.encode()).hexdigest()


async def test_a_password_is_found_by_its_name_and_all_else_by_its_hash(store, sql):
    password = hash_password("Tje0")
    await sql.execute(INSERT, "password", "tje0", password, 42, True, None)
    await sql.execute(INSERT, "ticket", "nightly", hashed("7T:a"), 7, False, None)
    await sql.execute(INSERT, "app-token", "crm", hashed("app"), None, False, None)

    assert await store.by_name("password", "tje0") == [StoredCredential("tje0", password, 42, True, None)]
    assert await store.by_hash("ticket", hashed("7T:a")) == [
        StoredCredential("nightly", hashed("7T:a"), 7, False, None)
    ]
    assert [row.associate_id for row in await store.by_hash("app-token", hashed("app"))] == [None]
    assert await store.by_name("password", "Tje0") == []
    assert await store.by_name("ticket", "tje0") == []
    assert await store.by_hash("session", hashed("7T:a")) == []


@pytest.mark.parametrize(
    ("expires_at", "least_s", "most_s"),
    [("-infinity", 0, 0), ("2001-01-01 UTC", 0, 0), ("9999-01-01 UTC", 2e11, 3e11)],
)
async def test_when_it_expires_is_told_by_the_databases_clock(store, sql, expires_at, least_s, most_s):
    await sql.execute(INSERT, "ticket", "nightly", hashed("7T:a"), 7, False, expires_at)

    ((*_, expires_in_s),) = await store.by_hash("ticket", hashed("7T:a"))

    assert least_s <= expires_in_s <= most_s


async def test_infinity_never_comes(store, sql):
    await sql.execute(INSERT, "ticket", "nightly", hashed("7T:a"), 7, False, "infinity")

    assert (await store.by_hash("ticket", hashed("7T:a")))[0].expires_in_s is None


@pytest.mark.parametrize(
    "row",
    [
        ("passwort", "tje0", "$argon2id$", 42),
        ("password", "tje0", "Tje0", 42),
        ("password", "", "$argon2id$", 42),
        ("password", "n" * 255, "$argon2id$", 42),
        ("password", "tje0", "$argon2id$", None),
        ("password", "tje0", "$argon2id$", 0),
        ("ticket", "nightly", "7T:a", 42),
        ("ticket", "nightly", hashed("7T:a").upper(), 42),
        ("ticket", "nightly", hashed("7T:a"), None),
        ("app-token", "crm", hashed("app"), 42),
    ],
    ids=lambda row: f"{row[0]}-{len(row[1])}-{row[2][:8]}-{row[3]}",
)
async def test_what_could_never_work_can_not_be_stored(sql, row):
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute(INSERT, *row, False, None)


@pytest.mark.parametrize("secret", ["7T:YWJj=", "s3ssion xsrf", "back\\slash", "Größe"])
async def test_a_secret_has_the_same_hash_in_sql(sql, secret):
    secret_hash = await sql.fetchval("SELECT gateway_secret_hash($1)", secret)

    assert secret_hash == hashed(secret)


async def test_an_index_on_the_hash_of_a_secret_is_used(sql):
    await sql.execute(
        "CREATE TEMP TABLE crm_session (id text, xsrf_token text);"
        "INSERT INTO crm_session SELECT n::text, 'xsrf' FROM generate_series(1, 2000) AS n;"
        "CREATE INDEX crm_session_hash ON crm_session (gateway_secret_hash(id || ' ' || xsrf_token)); ANALYZE crm_session;"
        "CREATE TEMP VIEW crm_credential AS"
        " SELECT text 'session' AS kind, gateway_secret_hash(id || ' ' || xsrf_token) AS secret_hash FROM crm_session"
    )

    plan = await sql.fetch(
        "EXPLAIN SELECT FROM crm_credential WHERE kind = $1::text AND secret_hash = $2::text", "session", "x"
    )

    assert "crm_session_hash" in repr(plan)


async def test_a_user_has_one_password_and_any_number_of_sessions(sql):
    await sql.execute(INSERT, "password", "tje0", hash_password("one"), 42, False, None)
    await sql.execute(INSERT, "session", "tje0", hashed("one xsrf"), 42, False, None)
    await sql.execute(INSERT, "session", "tje0", hashed("two xsrf"), 42, False, None)

    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute(INSERT, "password", "tje0", hash_password("two"), 42, False, None)


async def test_the_role_of_the_gateway_reads_the_view_and_may_do_nothing_else(database, sql):
    role = urlsplit(database).path[1:].replace("test", "gateway")
    (grant,) = re.findall(r"^GRANT .* TO gateway;", RIGHTS.read_text(), re.MULTILINE)
    await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    await sql.execute(grant.replace("TO gateway", f"TO {role}"))
    await sql.execute(INSERT, "ticket", "nightly", hashed("7T:a"), 7, False, None)
    parts = urlsplit(database)
    url = parts._replace(netloc=f"{role}:secret@{parts.hostname}:{parts.port}").geturl()
    store, connection = store_at(url), await asyncpg.connect(url)

    assert await store.by_hash("ticket", hashed("7T:a"))
    for statement in (
        "SELECT FROM gateway_stored_credential",
        "DELETE FROM gateway_credential",
        "SELECT FROM configuration_cache",
        "DELETE FROM configuration_cache WHERE false",
        "SELECT FROM configuration_cache_outbox",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)

    await store.close()
    await connection.close()
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_view_may_be_replaced_by_one_over_other_tables(servers):
    with available(), servers.database(migrated) as url:
        connection, store = await asyncpg.connect(url), store_at(url)
        assert await store.by_name("password", "tje0") == []
        await connection.execute(
            "CREATE TABLE crm_user (login varchar(40), hash varchar(200), person int, is_admin boolean, ends timestamptz);"
            "INSERT INTO crm_user VALUES ('tje0', '$argon2id$...', 42, true, now() + interval '1 day');"
            "CREATE OR REPLACE VIEW gateway_credential (kind, name, secret_hash, associate_id, may_clear_all, expires_at)"
            " AS SELECT text 'password', login::text, hash::text, person::bigint, is_admin, ends FROM crm_user"
        )

        ((name, secret_hash, associate_id, may_clear_all, expires_in_s),) = await store.by_name(
            "password", "tje0"
        )

        assert (name, secret_hash, associate_id, may_clear_all) == ("tje0", "$argon2id$...", 42, True)
        assert 86_000 < expires_in_s <= 86_400
        await store.close()
        await connection.close()


async def test_what_keeps_it_from_answering_is_told_with_what_mends_it(servers):
    with available(), servers.database() as url:
        store = store_at(url)
        with pytest.raises(CredentialsUnavailable, match=r"does not exist .*run `configcache migrate`"):
            await store.by_name("password", "tje0")
        await store.close()
    (port,) = free_ports(1)
    with pytest.raises(CredentialsUnavailable, match="no connection to PostgreSQL at"):
        await store_at(f"postgresql://g:hidden@{LOOPBACK}:{port}/app").by_name("password", "tje0")


async def test_a_look_up_ends_in_time_and_the_next_one_connects_anew(database, sql):
    impatient = store_at(database, patience_s=0.2)
    await impatient.by_name("password", "tje0")
    await sql.execute("BEGIN; LOCK TABLE gateway_stored_credential")

    with pytest.raises(CredentialsUnavailable):
        await impatient.by_name("password", "tje0")
    await sql.execute("ROLLBACK")

    assert await impatient.by_name("password", "tje0") == []
    await impatient.close()


async def test_a_connection_that_the_server_has_ended_is_replaced(store, sql):
    await store.by_name("password", "tje0")
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'configcache gateway'"
        " AND datname = current_database()"
    )

    with contextlib.suppress(CredentialsUnavailable):  # of the one that meets the end of the connection
        await store.by_name("password", "tje0")

    assert await store.by_name("password", "tje0") == []
