"""
The broker's topology as data: exchanges, queues, bindings, and the least rights of each role.

Pure values; who declares them, and when, is decided elsewhere. The names and arguments are part of the contract: a
broker refuses to declare an existing queue with other arguments, so changing one is a breaking change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

COMMAND_EXCHANGE: Final = "configuration"
COMMAND_QUEUE: Final = "clear-configuration-cache.v1"
COMMAND_ROUTING_KEY: Final = COMMAND_QUEUE
DEAD_LETTER_EXCHANGE: Final = "configuration.dead-letter"
DEAD_LETTER_QUEUE: Final = "clear-configuration-cache.v1.dead-letter"
DEAD_LETTER_ROUTING_KEY: Final = DEAD_LETTER_QUEUE
EVENT_EXCHANGE: Final = "configuration.events"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str
    """``direct`` or ``topic``."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue."""

    name: str
    arguments: Mapping[str, str | int] = field(hash=False)
    """What the broker gets as ``x-arguments``; the types matter to it as well."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Messages of *exchange* with *routing_key* go to *queue*."""

    queue: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Topology:
    """
    Everything on the broker, each kind in the order of creation.

    To lose no message while it is being created: first the dead-letter queue, then the exchanges, then the other
    queues, then the bindings.
    """

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Permissions:
    """A user's rights in a vhost: three regular expressions, as ``rabbitmqctl set_permissions`` takes them."""

    configure: str
    write: str
    read: str


# A billion, since there is no portable way to say "never": without a limit RabbitMQ 4 counts every lost connection and
# gives up good commands after 20 of them, and with -1 RabbitMQ 3.10 gives up at the first. Operators can lower it by
# policy.
_DELIVERY_LIMIT: Final = 1_000_000_000

TOPOLOGY: Final = Topology(
    exchanges=(
        Exchange(DEAD_LETTER_EXCHANGE, type="direct"),
        Exchange(COMMAND_EXCHANGE, type="direct"),
        Exchange(EVENT_EXCHANGE, type="topic"),
    ),
    queues=(
        Queue(
            DEAD_LETTER_QUEUE,
            MappingProxyType({"x-queue-type": "quorum", "x-delivery-limit": _DELIVERY_LIMIT}),
        ),
        Queue(
            COMMAND_QUEUE,
            MappingProxyType(
                {
                    "x-queue-type": "quorum",
                    "x-delivery-limit": _DELIVERY_LIMIT,
                    "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
                    "x-dead-letter-routing-key": DEAD_LETTER_ROUTING_KEY,
                    # The broker's own dead-lettering loses messages unless both of these are set.
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                }
            ),
        ),
    ),
    bindings=(
        Binding(DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY),
        Binding(COMMAND_QUEUE, COMMAND_EXCHANGE, COMMAND_ROUTING_KEY),
    ),
)


def _any_of(*names: str) -> str:
    """The pattern of exactly these names. The broker's patterns are not anchored."""
    return "^(" + "|".join(name.replace(".", r"\.") for name in names) + ")$"


NOTHING: Final = ""
"""As a pattern, RabbitMQ reads the empty string as "no name at all"."""

PRODUCER_PERMISSIONS: Final = Permissions(configure=NOTHING, write=_any_of(COMMAND_EXCHANGE), read=NOTHING)

WORKER_PERMISSIONS: Final = Permissions(
    configure=NOTHING,
    write=_any_of(DEAD_LETTER_EXCHANGE, EVENT_EXCHANGE),
    read=_any_of(COMMAND_QUEUE),
)

SUBSCRIBER_PERMISSIONS: Final = Permissions(
    configure=r"^amq\.gen-",
    write=r"^amq\.gen-",
    read=r"^(amq\.gen-.*|" + EVENT_EXCHANGE.replace(".", r"\.") + ")$",
)
"""For whoever listens to news, with a queue that the broker names."""

OPERATOR_PERMISSIONS: Final = Permissions(
    configure=NOTHING,
    write=_any_of(COMMAND_EXCHANGE, DEAD_LETTER_EXCHANGE),
    read=_any_of(DEAD_LETTER_QUEUE),
)
"""For whoever runs ``configcache dead-letters``: reads dead letters, replays them as commands, imports them again."""

# Binding writes to the queue and reads the exchange; declaring a queue with a dead-letter exchange reads the queue and
# writes to that exchange.
SETUP_PERMISSIONS: Final = Permissions(
    configure=_any_of(
        COMMAND_EXCHANGE, DEAD_LETTER_EXCHANGE, EVENT_EXCHANGE, COMMAND_QUEUE, DEAD_LETTER_QUEUE
    ),
    write=_any_of(COMMAND_QUEUE, DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE),
    read=_any_of(COMMAND_QUEUE, COMMAND_EXCHANGE, DEAD_LETTER_EXCHANGE),
)
"""For whoever runs ``configcache topology``."""
