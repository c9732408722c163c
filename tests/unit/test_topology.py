from __future__ import annotations

import re

import pytest

from configcache.topology import (
    OPERATOR_PERMISSIONS,
    PRODUCER_PERMISSIONS,
    SETUP_PERMISSIONS,
    TOPOLOGY,
    WORKER_PERMISSIONS,
)

COMMANDS = "clear-configuration-cache.v1"
DEAD_LETTERS = "clear-configuration-cache.v1.dead-letter"
ALL_NAMES = [
    "configuration",
    "configuration.dead-letter",
    "configuration.events",
    COMMANDS,
    DEAD_LETTERS,
    "clear-configuration-cache-v1",
    "configuration-events",
    "other",
    "",
]


def permitted(pattern: str) -> set[str]:
    """The names a pattern permits, as RabbitMQ matches them: unanchored, and the empty pattern permits the empty name."""
    return {name for name in ALL_NAMES if re.search(pattern or "^$", name)} - {""}


def test_the_queues_have_exactly_the_arguments_of_the_contract():
    arguments = {queue.name: dict(queue.arguments) for queue in TOPOLOGY.queues}

    assert arguments == {
        COMMANDS: {
            "x-queue-type": "quorum",
            "x-delivery-limit": 1000000000,
            "x-dead-letter-exchange": "configuration.dead-letter",
            "x-dead-letter-routing-key": DEAD_LETTERS,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
        DEAD_LETTERS: {"x-queue-type": "quorum", "x-delivery-limit": 1000000000},
    }


def test_the_exchanges_and_bindings_are_those_of_the_contract():
    assert {(exchange.name, exchange.type) for exchange in TOPOLOGY.exchanges} == {
        ("configuration", "direct"),
        ("configuration.dead-letter", "direct"),
        ("configuration.events", "topic"),
    }
    assert {(binding.queue, binding.exchange, binding.routing_key) for binding in TOPOLOGY.bindings} == {
        (COMMANDS, "configuration", COMMANDS),
        (DEAD_LETTERS, "configuration.dead-letter", DEAD_LETTERS),
    }


def test_dead_letters_have_a_home_before_the_first_command_can_arrive():
    assert [queue.name for queue in TOPOLOGY.queues] == [DEAD_LETTERS, COMMANDS]
    assert [binding.queue for binding in TOPOLOGY.bindings] == [DEAD_LETTERS, COMMANDS]


def test_the_arguments_cannot_be_changed_by_accident():
    with pytest.raises(TypeError):
        TOPOLOGY.queues[0].arguments["x-queue-type"] = "classic"


def test_a_producer_may_publish_commands_and_nothing_else():
    assert permitted(PRODUCER_PERMISSIONS.write) == {"configuration"}
    assert permitted(PRODUCER_PERMISSIONS.read) == permitted(PRODUCER_PERMISSIONS.configure) == set()


def test_a_worker_may_read_its_queue_and_write_dead_letters_and_events():
    assert permitted(WORKER_PERMISSIONS.read) == {COMMANDS}
    assert permitted(WORKER_PERMISSIONS.write) == {"configuration.dead-letter", "configuration.events"}
    assert permitted(WORKER_PERMISSIONS.configure) == set()


def test_an_operator_may_read_dead_letters_and_publish_them_as_either_and_nothing_else():
    assert permitted(OPERATOR_PERMISSIONS.read) == {DEAD_LETTERS}
    assert permitted(OPERATOR_PERMISSIONS.write) == {"configuration", "configuration.dead-letter"}
    assert permitted(OPERATOR_PERMISSIONS.configure) == set()


def test_set_up_may_declare_everything_but_neither_publish_commands_nor_read_dead_letters():
    everything = {
        "configuration",
        "configuration.dead-letter",
        "configuration.events",
        COMMANDS,
        DEAD_LETTERS,
    }

    assert permitted(SETUP_PERMISSIONS.configure) == everything
    assert "configuration" not in permitted(SETUP_PERMISSIONS.write)
    assert DEAD_LETTERS not in permitted(SETUP_PERMISSIONS.read)
