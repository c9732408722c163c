"""Exactly the right rows go: bare JSON from foreign clients, scopes side by side, tables of the user's own."""

import asyncio
import json
import shutil
import subprocess
from urllib.parse import urlsplit

import pika
import pytest

from configcache import ClearConfigurationCache
from configcache.topology import COMMAND_EXCHANGE, COMMAND_ROUTING_KEY
from configcache_worker.testing import CacheRow

NAMES = [
    ("WebClient", "Web"),
    ("WebClient", "web"),
    ("webclient", "Web"),
    ("WebClient", "Mobile"),
    ("Web%", "Web"),
    ("Web_lient", "Web"),
    ("O'Client", 'the "quoted"'),
    ("back\\slash", "{curly,braces}"),
    ("Wéb", "日本語 🎉"),
    ("We\u0301b", "日本語 🎉"),
    ("x" * 254, "y" * 254),
    ("x" * 253, "y" * 254),
    ("\U0001d54f" * 254, "null"),
]
ASSOCIATES = [1, 4, 42, 43, 2**63 - 1]
ITEMS = ["Contact", "contact", "Sale/%"]
ROWS = {CacheRow(*names, associate, item) for names in NAMES for associate in ASSOCIATES for item in ITEMS}


def publish_with_pika(url, body):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().basic_publish(COMMAND_EXCHANGE, COMMAND_ROUTING_KEY, body)
    connection.close()


def publish_with_amqp_tools(url, body):
    program = shutil.which("amqp-publish")
    if program is None:
        pytest.skip("amqp-publish (Debian's amqp-tools) is not installed")
    parts = urlsplit(url)
    subprocess.run(
        [
            program,
            f"--server={parts.hostname}",
            f"--port={parts.port}",
            f"--vhost={parts.path[1:]}",
            f"--exchange={COMMAND_EXCHANGE}",
            f"--routing-key={COMMAND_ROUTING_KEY}",
        ],
        input=body,
        check=True,
        timeout=30,
    )


def command(names, associate):
    whose = {"ForAllAssociates": True} if associate is None else {"AssociateId": associate}
    return {"Application": names[0], "Instance": names[1], **whose}


def left(rows, *commands):
    """What must be left, by the contract's words alone."""
    return {
        row
        for row in rows
        if not any(
            (row.application, row.instance) == (c["Application"], c["Instance"])
            and (c.get("ForAllAssociates") or row.associate_id == c["AssociateId"])
            for c in commands
        )
    }


@pytest.mark.parametrize("publish", [publish_with_pika, publish_with_amqp_tools])
async def test_bare_json_of_a_foreign_client_clears_exactly_its_rows(system, publish):
    await system.fill(ROWS)
    commands = [command(("WebClient", "Web"), 42), command(("Wéb", "日本語 🎉"), None)]

    for each in commands:
        await asyncio.to_thread(publish, system.settings.broker.url, json.dumps(each).encode())
    await system.settled()

    assert await system.rows() == left(ROWS, *commands)


@pytest.mark.parametrize("associate", [None, 42, 2**63 - 1])
@pytest.mark.parametrize("names", NAMES, ids=[f"names{number}" for number in range(len(NAMES))])
async def test_a_clear_takes_its_scope_and_nothing_beside_it(system, names, associate):
    await system.fill(ROWS)

    await system.publish_raw(json.dumps(command(names, associate)).encode())
    await system.settled()

    assert await system.rows() == left(ROWS, command(names, associate))


async def test_clearing_nothing_is_success(system):
    await system.fill(ROWS)

    await system.publish(ClearConfigurationCache.for_associate("WebClient", "Web", 7))
    await system.publish(ClearConfigurationCache.for_all("Nobody", "Knows"))
    await system.settled()

    assert await system.rows() == ROWS
    assert await system.dead_letters() == []


async def test_a_row_that_is_being_built_goes_too(system):
    await system.execute(
        "INSERT INTO configuration_cache (application, instance, associate_id, item, lease, leased_until)"
        " VALUES ('WebClient', 'Web', 42, 'Contact', gen_random_uuid(), now() + interval '1 minute')"
    )

    await system.publish(ClearConfigurationCache.for_associate("WebClient", "Web", 42))
    await system.settled()

    assert await system.rows() == set()


OWN_TABLES = {
    "quoted names, short types, another collation": (
        """
        CREATE SCHEMA "the portal";
        CREATE TABLE "the portal"."User ""Own"" Cache" (
            "App Name" varchar(300) COLLATE "C" NOT NULL,
            "select" text NOT NULL,
            "Who" integer NOT NULL,
            "Which" varchar(128) NOT NULL,
            payload bytea,
            PRIMARY KEY ("App Name", "select", "Who", "Which")
        );
        """,
        {
            "schema": "the portal",
            "table": 'User "Own" Cache',
            "columns": {"application": "App Name", "instance": "select", "associate": "Who", "item": "Which"},
        },
    ),
    "without items": (
        """
        CREATE TABLE built (inst text NOT NULL, app text NOT NULL, usr bigint NOT NULL);
        CREATE INDEX ON built (inst, app, usr);
        """,
        {
            "table": "built",
            "columns": {"application": "app", "instance": "inst", "associate": "usr", "item": ""},
        },
    ),
}
OWN_INSERTS = {
    "quoted names, short types, another collation": 'INSERT INTO "the portal"."User ""Own"" Cache" VALUES (%s, %s, %s, \'p\')',
    "without items": "INSERT INTO built (app, inst, usr) VALUES (%s, %s, %s)",
}


@pytest.mark.parametrize("name", OWN_TABLES)
async def test_a_table_of_the_users_own_is_cleared_just_so(new_system, name):
    table_sql, cache = OWN_TABLES[name]
    rows = {(*names, associate) for names in NAMES for associate in ASSOCIATES[:-1]}
    commands = [
        command(NAMES[1], 4),
        command(NAMES[6], None),
        command(NAMES[0], 2**63 - 1),
        command(NAMES[12], 42),
    ]

    async with new_system(table_sql=table_sql, cache=cache) as system:
        for row in rows:
            literals = ["'" + str(value).replace("'", "''") + "'" for value in row]
            await system.execute(OWN_INSERTS[name] % tuple(literals))
        await system.publish_raw(*[json.dumps(each).encode() for each in commands])
        await system.settled()
        remaining = {row[:3] for row in await system.rows()}

    assert remaining == {row[:3] for row in left({CacheRow(*row) for row in rows}, *commands)}
