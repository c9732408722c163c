"""The status of real systems: well, away and back, unmigrated, without rights, with dead letters and a backlog."""

from __future__ import annotations

import asyncio
import json
import os
import re
from urllib.parse import urlsplit

import asyncpg
import pytest

from configcache import ClearConfigurationCache
from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE, Permissions
from configcache_worker.__main__ import main
from configcache_worker.postgres import overview
from configcache_worker.settings import BrokerSettings, CacheSettings, DatabaseSettings, Settings
from configcache_worker.status import Looker, Thresholds, judged
from tests.commands import declare
from tests.conftest import available
from tests.proxy import Proxy
from tests.tables import migrated
from tests.users import user

ALL = ClearConfigurationCache.for_all("WebClient", "Web")


@pytest.fixture
async def topology(vhost):
    """A virtual host with all in it."""
    await declare(vhost)
    return vhost


@pytest.fixture
def tables(servers):
    """A database with all in it."""
    with available(), servers.database(migrated) as url:
        yield url


@pytest.fixture
async def sql(tables):
    connection = await asyncpg.connect(tables)
    yield connection
    await connection.close()


def looker(broker, database, *, patience_s=10.0, **cache):
    settings = Settings(
        broker=BrokerSettings(url=broker),
        database=DatabaseSettings(url=database),
        cache=CacheSettings(**cache),
    )
    return Looker(settings, patience_s=patience_s)


async def look(broker, database=None, **options):
    """The parts by name. Just a looker may be given."""
    looking = broker if isinstance(broker, Looker) else looker(broker, database, **options)
    report = judged(await looking.look(), Thresholds())
    return {part.name: part for part in report.parts}


def verdicts(parts):
    return {name: str(part.verdict) for name, part in parts.items()}


WELL = dict.fromkeys(["broker", "commands", "dead-letters", "database", "cache", "outbox"], "ok")


def as_user(url, name):
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}").geturl()


async def test_a_system_at_work_is_well_in_every_part(system):
    await system.fill([("WebClient", "Web", 42, "Contact")])

    parts = await look(system.settings.broker.url, system.settings.database.url)

    assert verdicts(parts) == WELL
    assert parts["broker"].facts["product"] == "RabbitMQ"
    assert parts["broker"].facts["address"] == urlsplit(system.settings.broker.url).netloc.rpartition("@")[2]
    assert parts["commands"].facts == {"waiting": 0, "consumers": 1}
    assert parts["dead-letters"].text == "none"
    assert parts["database"].facts["state"] == "writable"
    assert (parts["cache"].facts["rows"], parts["cache"].facts["rows_are"]) == (1, "exact")
    assert parts["outbox"].facts == {"rows": 0, "rows_are": "exact", "oldest_s": None}


async def test_dead_letters_are_told_by_reason_and_stay_where_they_are(system):
    await system.publish_raw(b"not JSON", b"nor this", b"[]")
    await system.settled()

    parts = await look(system.settings.broker.url, system.settings.database.url)

    assert verdicts(parts) == WELL | {"dead-letters": "attention"}
    assert parts["dead-letters"].facts == {
        "waiting": 3,
        "looked_at": 3,
        "by_reason": {"invalid-json": 2, "not-an-object": 1},
        "not_told": None,
    }
    assert len(await system.dead_letters()) == 3


async def test_letters_are_held_again_only_when_there_are_more_or_fewer(system):
    await system.publish_raw(b"not JSON")
    await system.settled()

    async with Proxy(system.settings.broker.url) as line:
        looking = looker(line.url, system.settings.database.url)
        await look(looking)
        at_first = line.connections
        await look(looking)
        without_letters = line.connections - at_first
        await system.publish_raw(b"[]")
        await system.settled()
        parts = await look(looking)

    assert without_letters == 1 < at_first
    assert parts["dead-letters"].facts["by_reason"] == {"invalid-json": 1, "not-an-object": 1}


async def test_commands_that_nobody_consumes_are_broken_and_not_touched(new_system):
    async with new_system(start_worker=False) as system:
        await system.publish(ALL, ALL)

        parts = await look(system.settings.broker.url, system.settings.database.url)

        assert verdicts(parts) == WELL | {"commands": "broken"}
        assert parts["commands"].facts == {"waiting": 2, "consumers": 0}
        assert await system.bench.depth(COMMAND_QUEUE) == 2


async def test_servers_that_go_are_shown_and_so_is_that_they_are_back(topology, tables):
    async with Proxy(topology) as broker, Proxy(tables) as database:
        looking = looker(broker.url, database.url)

        before = verdicts(await look(looking))
        broker.refuse()
        without_broker = await look(looking)
        database.refuse()
        without_both = await look(looking)
        broker.accept()
        database.accept()
        after = verdicts(await look(looking))

    assert before == after == WELL | {"commands": "broken"}
    assert verdicts(without_broker) == WELL | {
        "broker": "broken",
        "commands": "unknown",
        "dead-letters": "unknown",
    }
    assert without_broker["commands"].text == "the broker does not answer"
    assert verdicts(without_both) | {"commands": "", "dead-letters": ""} == {
        "broker": "broken",
        "commands": "",
        "dead-letters": "",
        "database": "broken",
        "cache": "unknown",
        "outbox": "unknown",
    }


async def test_servers_that_fall_silent_are_given_up_in_time(topology, tables):
    async with Proxy(topology) as broker, Proxy(tables) as database:
        broker.freeze()
        database.freeze()

        async with asyncio.timeout(5):
            parts = await look(broker.url, database.url, patience_s=0.2)

    assert parts["broker"].text.endswith(("no answer in 0.2 s", "no answer in time"))
    assert parts["database"].verdict == "broken"


async def test_empty_servers_are_broken_and_told_what_mends_them(vhost, database):
    parts = await look(vhost, database)

    assert verdicts(parts) == WELL | {
        "commands": "broken",
        "dead-letters": "broken",
        "cache": "broken",
        "outbox": "unknown",
    }
    assert parts["commands"].text == f"there is no queue {COMMAND_QUEUE}: run `configcache topology`"
    assert parts["cache"].text.endswith("run `configcache migrate`")
    assert parts["outbox"].text == "the outbox in schema public is not there"


async def test_a_cell_whose_right_is_missing_says_which_and_the_others_are_told(rabbitmq, new_system):
    async with new_system() as system:
        await system.publish_raw(b"not JSON")
        await system.settled()
        broker, database = system.settings.broker.url, system.settings.database.url
        role = urlsplit(database).path[1:].replace("test", "role")
        await system.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")

        with user(rabbitmq, broker, Permissions("", "", "")) as broker_url:
            parts = await look(broker_url, as_user(database, role))

        await system.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")

    assert verdicts(parts) == WELL | {"dead-letters": "attention", "cache": "unknown", "outbox": "unknown"}
    name = urlsplit(broker_url).username
    assert (
        parts["dead-letters"].facts["not_told"] == f"user {name} lacks the right to read {DEAD_LETTER_QUEUE}"
    )
    assert f"rows are not counted: role {role} lacks a right on" in " ".join(parts["cache"].reasons)
    assert parts["outbox"].text == f"role {role} lacks a right on the outbox in schema public"


async def test_a_database_that_only_reads_is_broken(topology, tables):
    parts = await look(topology, f"{tables}?default_transaction_read_only=on")

    assert (parts["database"].facts["state"], parts["database"].verdict) == ("read-only", "broken")
    assert parts["cache"].verdict == "ok"


async def test_leases_and_the_outbox_are_counted(topology, tables, sql):
    await sql.execute(
        "SELECT configuration_cache_begin('WebClient', 'Web', 1, 'page');"
        "SELECT configuration_cache_begin('WebClient', 'Web', 2, 'page', interval '1 microsecond');"
        "INSERT INTO configuration_cache (application, instance, associate_id, item, xml)"
        " VALUES ('WebClient', 'Web', 3, 'page', '<page/>');"
        "INSERT INTO configuration_cache_outbox (application, instance, for_all_associates, enqueued_at)"
        " VALUES ('WebClient', 'Web', true, now() - interval '90 seconds');"
        "SELECT enqueue_clear_configuration_cache('WebClient', 'Web', true)"
    )

    parts = await look(topology, tables)

    cache = parts["cache"].facts
    assert (cache["rows"], cache["building"], cache["expired"]) == (3, 1, 1)
    assert (parts["outbox"].verdict, parts["outbox"].facts["rows"]) == ("attention", 2)
    assert 89 < parts["outbox"].facts["oldest_s"] < 150


async def test_a_large_table_is_estimated_rather_than_counted(topology, tables, sql, monkeypatch):
    monkeypatch.setattr(overview, "MOST_COUNTED", 100)
    await sql.execute(
        "INSERT INTO configuration_cache (application, instance, associate_id, item, xml)"
        " SELECT 'WebClient', 'Web', n, 'page', '<page/>' FROM generate_series(1, 500) AS n"
    )
    await sql.execute("ANALYZE configuration_cache")

    parts = await look(topology, tables)

    assert (parts["cache"].facts["rows"], parts["cache"].facts["rows_are"]) == (500, "estimate")


async def test_a_table_that_somebody_has_locked_is_told_as_what_would_stop_a_clear(topology, tables, sql):
    async with sql.transaction():
        await sql.execute("LOCK TABLE configuration_cache IN ACCESS EXCLUSIVE MODE")

        parts = await look(topology, tables, patience_s=1.2)

    assert parts["cache"].verdict == "broken"
    assert "a clear would fail: " in parts["cache"].reasons[0]
    assert "lock timeout" in parts["cache"].reasons[0]


async def test_a_table_of_ones_own_has_no_leases(topology, tables, sql):
    await sql.execute("CREATE TABLE pages (app text, inst text, who bigint)")
    columns = {"application": "app", "instance": "inst", "associate": "who", "item": ""}

    parts = await look(topology, tables, table="pages", columns=columns)

    assert parts["cache"].text == '"public"."pages": 0 rows'
    assert parts["cache"].facts["building"] is None


# --- the verb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the verb on two servers: exit code, and both outputs."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CONFIGCACHE_")]:
        monkeypatch.delenv(name)

    async def run(broker, database, *arguments):
        monkeypatch.setenv("CONFIGCACHE_BROKER__URL", broker)
        monkeypatch.setenv("CONFIGCACHE_DATABASE__URL", database)
        code = await asyncio.to_thread(main, ["status", *arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


async def test_the_exit_code_tells_that_somebody_is_needed_and_standard_error_where(run, vhost, tables):
    code, out, err = await run(vhost, tables)
    as_json = await run(vhost, tables, "--json")

    assert (code, err) == (1, "configcache status: broken: commands, dead-letters\n")
    assert "there is no queue" in out
    assert (as_json[0], as_json[2]) == (code, err)
    assert json.loads(as_json[1])["parts"]["database"]["state"] == "writable"


async def test_a_system_that_is_well_ends_with_0(run, system):
    code, out, err = await run(system.settings.broker.url, system.settings.database.url)

    assert (code, err) == (0, "")
    assert re.search(
        r"^configcache status, .*: ok$", out, re.MULTILINE
    )  # beside the log of the worker in this process


async def test_the_thresholds_are_the_operators(run, new_system):
    async with new_system() as system:
        await system.execute("SELECT enqueue_clear_configuration_cache('WebClient', 'Web', true)")
        servers = system.settings.broker.url, system.settings.database.url

        patient = await run(*servers)
        impatient = await run(*servers, "--backlog", "0.001")

    assert patient[0] == 0
    assert (impatient[0], impatient[2]) == (1, "configcache status: attention: outbox\n")
