"""The tables of the contract say what the code does. Where one differs, the rows that are right stand in the failure."""

from __future__ import annotations

import re

from configcache import topology
from configcache.command import PROPERTIES, ClearConfigurationCache
from configcache.errors import Reason
from configcache.wire import COMMAND_PROPERTIES, Properties
from configcache_worker.rabbitmq import copies
from tests.docs.documents import PROJECT, table_rows

CONTRACT = PROJECT / "docs" / "contract.md"


def names(row):
    return re.findall(r"`([^`]+)`", row[0])


def arguments(queue):
    return ", ".join(f"`{name}={value}`" for name, value in queue.arguments.items())


def pattern(text):
    # In a table a bar is escaped, in code too.
    return f"`{text}`".replace("|", "\\|") if text else ""


def test_the_properties_of_the_body_are_those_of_the_command():
    rows = table_rows(CONTRACT, "The body")

    assert [names(row)[0] for row in rows] == list(PROPERTIES)
    assert [row[1] for row in rows] == ["string", "string", "boolean", "integer"]


def test_the_limits_of_the_body_are_those_of_the_command():
    schema = ClearConfigurationCache.model_json_schema()["properties"]
    rules = {names(row)[0]: row[2] for row in table_rows(CONTRACT, "The body")}

    associate = schema["AssociateId"]["anyOf"][0]
    assert f"{associate['minimum']} to {associate['maximum']};" in rules["AssociateId"]
    name = schema["Application"]
    assert f"{name['minLength']} to {name['maxLength']} code points" in rules["Application"]


def test_the_properties_of_the_message_are_those_that_are_read():
    values = {name: row[1] for row in table_rows(CONTRACT, "The message") for name in names(row)}

    assert set(Properties._fields) < set(values)
    assert f"`{COMMAND_PROPERTIES.content_type}`" in values["content_type"]
    assert values["type"] == f"`{COMMAND_PROPERTIES.type}`"


def test_every_reason_is_listed_in_the_order_of_the_checks():
    assert table_rows(CONTRACT, "Reasons") == [(f"`{reason}`", reason.meaning) for reason in Reason]


def test_the_headers_of_dead_letters_are_those_that_are_written():
    written = {name.decode() for name in copies.LETTER_HEADERS}

    assert {name for row in table_rows(CONTRACT, "Dead letters") for name in names(row)} == written


def test_the_topology_is_the_one_that_is_declared():
    exchanges = [
        (f"`{exchange.name}`", f"{exchange.type} exchange", "") for exchange in topology.TOPOLOGY.exchanges
    ]
    queues = [(f"`{queue.name}`", "queue", arguments(queue)) for queue in topology.TOPOLOGY.queues]

    assert table_rows(CONTRACT, "Topology") == exchanges + queues


def test_the_bindings_are_those_that_are_declared():
    assert table_rows(CONTRACT, "Topology", table=1) == [
        (f"`{binding.exchange}`", f"`{binding.routing_key}`", f"`{binding.queue}`")
        for binding in topology.TOPOLOGY.bindings
    ]


def test_the_rights_are_those_of_the_topology():
    roles = {
        "producer": topology.PRODUCER_PERMISSIONS,
        "worker": topology.WORKER_PERMISSIONS,
        "subscriber": topology.SUBSCRIBER_PERMISSIONS,
        "operator": topology.OPERATOR_PERMISSIONS,
        "set-up": topology.SETUP_PERMISSIONS,
    }

    assert table_rows(CONTRACT, "Topology", table=2) == [
        (role, pattern(rights.configure), pattern(rights.write), pattern(rights.read))
        for role, rights in roles.items()
    ]
