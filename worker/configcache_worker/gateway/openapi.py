"""
The call as an OpenAPI 3.1 document, from the contract's model and the readers.

Which ways there are to say who calls comes from whoever knows the callers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from configcache import documents
from configcache_worker.gateway.asgi import CALL_PATH
from configcache_worker.gateway.body import READERS
from configcache_worker.gateway.command import PROPERTIES

Document = dict[str, Any]

_SAMPLE: Final[Document] = {"Application": "WebClient", "Instance": "Web", "ForAllAssociates": True}

_UNSERVED: Final[Mapping[str, str]] = {
    "400": "The body is empty, malformed, or not what the call takes; `ErrorMessage` says what and where.",
    "401": "Nobody knows who calls.",
    "403": "`ForAllAssociates` is true, and the caller may not; or the caller may not call at all.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is of a type that is not read, compressed, or not in UTF-8.",
    "429": "Too many failed attempts to say who calls.",
    "503": "The broker did not confirm the command in time, or too much is going on. Send it again: a command twice "
    "does no harm.",
}

# Headers beside those that every answer has.
_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "401": ("WWW-Authenticate",),
    "415": ("Accept-Post",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}


def document(
    *, root_path: str, security_schemes: Mapping[str, object], security: Sequence[Mapping[str, Sequence[str]]]
) -> Document:
    """
    The document, ready for ``json.dumps``.

    Args:
        root_path: Prefix of the paths that clients see.
        security_schemes: Ways to say who calls, by name, as OpenAPI has them.
        security: Which of them, or which together, are enough.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Configuration agent: ClearConfigurationCache",
            "version": documents.VERSION,
            "description": "The classic call, as a command on a message broker. 204 means that the command is in the"
            " queue, not yet that it was applied.",
            "license": {"name": "MIT"},
        },
        "servers": [{"url": root_path or "/"}],
        "paths": {CALL_PATH: {"post": _operation(security)}},
        "components": {
            "schemas": {"ClearConfigurationCacheRequest": _request(), "Error": _error()},
            "headers": _headers(),
            "responses": {status: _unserved(status, meaning) for status, meaning in _UNSERVED.items()},
            "securitySchemes": dict(security_schemes),
        },
    }


def _operation(security: Sequence[Mapping[str, Sequence[str]]]) -> Document:
    return {
        "operationId": "v1ConfigurationAgent_ClearConfigurationCache",
        "summary": "Clear the cached configuration of an application and instance, of the caller or of everybody.",
        "tags": ["Configuration"],
        "parameters": [
            {
                "name": "$select",
                "in": "query",
                "description": "Accepted, and without effect: there is no result to select from.",
                "schema": {"type": "string"},
            },
            _header_parameter("Accept-Language", "Accepted, and without effect.", {"type": "string"}),
            _header_parameter(
                "X-Request-ID",
                "The client's own id of the request: 1 to 64 letters, digits and `._:-`. In the place of any other the"
                " gateway gives one.",
                {"type": "string"},
            ),
            _header_parameter(
                "traceparent", "W3C Trace Context, passed on with the message.", {"type": "string"}
            ),
            _header_parameter("tracestate", "The vendors' part of it.", {"type": "string"}),
        ],
        "requestBody": {"required": True, "content": {name: _content(name) for name in READERS}},
        "responses": {
            "204": {
                "description": "The broker has confirmed the command and put it into the queue.",
                "headers": _header_references("X-Request-ID"),
            }
        }
        | {status: {"$ref": f"#/components/responses/{status}"} for status in _UNSERVED},
        "security": [dict(requirement) for requirement in security],
    }


def _header_parameter(name: str, description: str, schema: Document) -> Document:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def _content(media_type: str) -> Document:
    match media_type:
        case "application/merge-patch+json":
            schema = _nullable(_request())
        case "application/json-patch+json":
            return {"schema": _patch(), "example": _patch_sample()}
        case "application/xml" | "text/xml" | "application/x-www-form-urlencoded":
            schema = _as_text(_request())
        case _:
            return {"schema": {"$ref": "#/components/schemas/ClearConfigurationCacheRequest"}}
    return {"schema": schema}


def _request() -> Document:
    body = documents.json_schema()["properties"]
    return {
        "type": "object",
        "description": "All items go. Names compare exactly. The associate is the caller.",
        "additionalProperties": False,
        "required": ["Application", "Instance"],
        "properties": {name: body[name] for name in PROPERTIES},
        "xml": {"name": "ClearConfigurationCacheRequest"},
        "example": _SAMPLE,
    }


def _nullable(schema: Document) -> Document:
    """The request as a patch of an empty one: null is absent."""
    truth = schema["properties"]["ForAllAssociates"]
    return schema | {
        "properties": schema["properties"] | {"ForAllAssociates": truth | {"type": ["boolean", "null"]}}
    }


def _as_text(schema: Document) -> Document:
    """The request where every value is text."""
    truth = {
        "type": "string",
        "enum": ["true", "false", "1", "0", "True", "False"],
        "description": schema["properties"]["ForAllAssociates"]["description"],
    }
    return schema | {
        "properties": schema["properties"] | {"ForAllAssociates": truth},
        "example": _SAMPLE | {"ForAllAssociates": "true"},
    }


def _patch() -> Document:
    """The patches that everybody would write; what else RFC 6902 allows is applied too."""
    properties = _request()["properties"]
    first, second, third = (
        {
            "type": "object",
            "required": ["op", "path", "value"],
            "properties": {
                "op": {"const": "add"},
                "path": {"const": f"/{name}"},
                "value": properties[name],
            },
        }
        for name in PROPERTIES
    )
    return {
        "type": "array",
        "description": "Operations (RFC 6902), applied to an empty request.",
        "prefixItems": [first, second],
        "items": third,
        "minItems": 2,
        "maxItems": 3,
    }


def _patch_sample() -> list[Document]:
    return [{"op": "add", "path": f"/{name}", "value": value} for name, value in _SAMPLE.items()]


def _error() -> Document:
    return {
        "type": "object",
        "required": ["Error", "ErrorType", "ErrorMessage", "ErrorSource"],
        "properties": {
            "Error": {"const": True},
            "ErrorType": {"type": "string", "description": "A stable word for programs."},
            "ErrorMessage": {"type": "string", "description": "What is wrong and what would be right."},
            "ErrorSource": {"type": "string", "description": "Who says so."},
        },
        "xml": {"name": "ErrorResponse"},
    }


def _unserved(status: str, meaning: str) -> Document:
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": meaning,
        "headers": _header_references("X-Request-ID", *_HEADERS.get(status, ())),
        "content": {"application/json": {"schema": schema}, "application/xml": {"schema": schema}},
    }


def _headers() -> Document:
    meanings = {
        "X-Request-ID": "Of this request, in the gateway's log too.",
        "WWW-Authenticate": "The schemes that are accepted.",
        "Accept-Post": "The types that are read.",
        "Retry-After": "After how many seconds to try again.",
    }
    return {
        name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in meanings.items()
    }


def _header_references(*names: str) -> Document:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
