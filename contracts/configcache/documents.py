"""
The contract for machines: JSON Schema of the body, AsyncAPI of the message and where it goes.

Both are made from the model, the topology and the reasons; nothing is written down a second time. Pure values, ready for
``json.dumps``.
"""

from __future__ import annotations

from typing import Any, Final

from configcache import topology
from configcache.command import ClearConfigurationCache
from configcache.errors import Reason
from configcache.wire import COMMAND_PROPERTIES

__all__ = ["EXAMPLES", "asyncapi", "json_schema"]

Document = dict[str, Any]

VERSION: Final = "1.0.0"
"""Of the contract, not of this package: the first number is that of the queue's name."""

EXAMPLES: Final[tuple[Document, ...]] = (
    {"Application": "WebClient", "Instance": "Web", "ForAllAssociates": True},
    {"Application": "WebClient", "Instance": "Web", "ForAllAssociates": False, "AssociateId": 42},
    {"Application": "WebClient", "Instance": "Web", "AssociateId": 9223372036854775807},
)

_SUMMARY: Final = (
    "Clear the cached configuration of one application and instance, for one associate or for all of them."
)
_NAME: Final = ClearConfigurationCache.__name__


def json_schema() -> Document:
    """
    JSON Schema (2020-12) of the body.

    A schema can't say all of the contract: to it 42.0 is an integer, and a property that appears twice appears once.
    ``configcache contracts check`` is the judge.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:configcache:clear-configuration-cache:v1",
        **_body(),
        "examples": list(EXAMPLES),
    }


def asyncapi() -> Document:
    """AsyncAPI 3 of the worker: what it receives, and where that goes which it can never apply."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "clear-configuration-cache",
            "version": VERSION,
            "description": "Message-driven invalidation of a configuration cache. A worker receives commands and deletes"
            " the cached rows they name; what breaks the contract goes to the dead letters with its reason.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": COMMAND_PROPERTIES.content_type,
        "channels": {
            "commands": _channel(
                topology.COMMAND_EXCHANGE,
                topology.COMMAND_ROUTING_KEY,
                "Publish with `mandatory` and publisher confirms. Needs the right to write to the exchange, no other.",
                _NAME,
            ),
            "deadLetters": _channel(
                topology.DEAD_LETTER_EXCHANGE,
                topology.DEAD_LETTER_ROUTING_KEY,
                "Messages that can never be applied, body unchanged, each with its reason.",
                "DeadLetter",
            ),
        },
        "operations": {
            "receiveCommand": {
                "action": "receive",
                "channel": {"$ref": "#/channels/commands"},
                "summary": _SUMMARY,
            },
            "sendDeadLetter": {
                "action": "send",
                "channel": {"$ref": "#/channels/deadLetters"},
                "summary": "Put away a message that can never be applied.",
            },
        },
        "components": {
            "messages": {_NAME: _command_message(), "DeadLetter": _dead_letter_message()},
            "schemas": {_NAME: _body()},
        },
    }


def _body() -> Document:
    model = ClearConfigurationCache.model_json_schema(by_alias=True)
    properties = {}
    for name, rules in model["properties"].items():
        # The titles are pydantic's and repeat the name; the default of AssociateId is to be absent.
        properties[name] = {key: value for key, value in rules.items() if key != "title"}
        if properties[name].get("default", "") is None:
            del properties[name]["default"]
    return {
        "title": _NAME,
        "description": f"{_SUMMARY} All items of the scope go. Names compare exactly, case included.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": model["required"],
        "if": {"properties": {"ForAllAssociates": {"const": True}}, "required": ["ForAllAssociates"]},
        "then": {"properties": {"AssociateId": {"type": "null"}}},
        "else": {"properties": {"AssociateId": {"type": "integer"}}, "required": ["AssociateId"]},
    }


def _channel(exchange: str, routing_key: str, description: str, message: str) -> Document:
    (kind,) = (known.type for known in topology.TOPOLOGY.exchanges if known.name == exchange)
    return {
        "address": routing_key,
        "description": description,
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": kind, "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _command_message() -> Document:
    return {
        "name": _NAME,
        "title": "Clear the configuration cache",
        "summary": _SUMMARY,
        "contentType": COMMAND_PROPERTIES.content_type,
        "headers": {
            "type": "object",
            "description": "All optional.",
            "properties": {
                "published-at": {
                    "type": "integer",
                    "description": "When it was published, in Unix milliseconds.",
                },
                "traceparent": {"type": "string", "description": "W3C Trace Context."},
                "tracestate": {"type": "string", "description": "W3C Trace Context, the vendors' part."},
            },
        },
        "payload": {"$ref": f"#/components/schemas/{_NAME}"},
        "bindings": {"amqp": {"messageType": COMMAND_PROPERTIES.type, "bindingVersion": "0.3.0"}},
        "examples": [
            {"name": "everybody", "payload": EXAMPLES[0]},
            {"name": "oneAssociate", "payload": EXAMPLES[1]},
            {"name": "shortest", "payload": EXAMPLES[2]},
        ],
    }


def _dead_letter_message() -> Document:
    return {
        "name": "DeadLetter",
        "title": "A message that can never be applied",
        "summary": "The producer's message, with headers that say why it is here.",
        "headers": {
            "type": "object",
            "properties": {
                "dead-letter-reason": {
                    "type": "string",
                    "enum": [reason.value for reason in Reason],
                    "description": "A stable word. Absent where the broker has dead-lettered its own copy.",
                },
                "dead-letter-detail": {
                    "type": "string",
                    "description": "What is wrong, and what would be right; never any of the payload.",
                },
                "dead-lettered-at": {"type": "integer", "description": "Unix milliseconds."},
            },
        },
        "payload": {"description": "As it was published, byte for byte."},
    }
