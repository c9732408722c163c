"""The gateway held against its own OpenAPI document, as it is served, by schemathesis."""

from __future__ import annotations

import base64
from collections import Counter

import pytest
import schemathesis
import structlog
from jsonschema import Draft202012Validator
from schemathesis import engine
from schemathesis.config import SchemathesisConfig

from configcache.recording import RecordingPublisher
from configcache_worker.gateway.asgi import CALL_PATH, OPENAPI_PATH
from configcache_worker.gateway.authentication import Refusal
from configcache_worker.gateway.body import READERS
from configcache_worker.gateway.openapi import document
from tests.gateways import ADMINISTRATOR, application

USER, PASSWORD = "tje0", "Tje0"
SECURITY = ({"basic": {"type": "http", "scheme": "basic"}}, [{"basic": []}])
BROKEN_TOO = ["application/json", "application/merge-patch+json"]


class OneUser:
    """Knows one user."""

    async def authenticate(self, request):
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("authorization") == expected:
            return ADMINISTRATOR
        return Refusal(401, "SoSessionException", "who are you?", ('Basic realm="configcache"',))


@pytest.fixture
def quiet():
    """Without a line for each of many requests."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


# Where all is text, a value of a wrong type is a text like any other; and more patches can be applied than are described.
@pytest.mark.parametrize(
    ("content_types", "mode"),
    [(BROKEN_TOO, "all"), ([name for name in READERS if name not in BROKEN_TOO], "positive")],
    ids=["broken too", "as described"],
)
def test_the_gateway_keeps_what_its_document_promises(content_types, mode, quiet):
    statuses = Counter()
    publisher = RecordingPublisher()
    publisher.open()
    app = application(
        publisher,
        authenticator=OneUser(),
        security=SECURITY,
        answered=lambda status, _: statuses.update([status]),
    )

    problems = problems_of(app, content_types, mode)

    assert problems == []
    assert statuses[204] > 30
    assert not {status for status in statuses if status >= 500}
    if mode == "all":
        assert {400, 401, 405} <= set(statuses)


def problems_of(app, content_types, mode):
    """What schemathesis has against *app*, whatever it tries for *content_types*."""
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "auth": {"openapi": {"basic": {"username": USER, "password": PASSWORD}}},
            "generation": {"mode": mode, "max-examples": 12, "deterministic": True, "database": "none"},
            "phases": {"stateful": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_asgi(OPENAPI_PATH, app, config=config)
    body = schema.raw_schema["paths"][CALL_PATH]["post"]["requestBody"]
    body["content"] = {name: body["content"][name] for name in content_types}
    problems = []
    for event in engine.from_schema(schema).execute():
        if "Error" in type(event).__name__:
            problems.append(event)
        elif isinstance(event, engine.events.ScenarioFinished):
            problems += failures(event.recorder)
    return problems


def failures(recorder):
    return [
        f"{check.name}: {check.failure_info.failure.message}\n{check.failure_info.code_sample}"
        for checks in recorder.checks.values()
        for check in checks
        if check.failure_info is not None
    ]


def test_the_document_names_where_it_is_and_who_may_call():
    found = document(root_path="/crm", security_schemes=SECURITY[0], security=SECURITY[1])

    assert found["servers"] == [{"url": "/crm"}]
    assert found["components"]["securitySchemes"] == SECURITY[0]
    assert found["paths"][CALL_PATH]["post"]["security"] == SECURITY[1]


@pytest.mark.parametrize("content_type", READERS)
def test_the_samples_of_the_document_are_what_it_describes(content_type):
    found = document(root_path="", security_schemes={}, security=[])
    content = found["paths"][CALL_PATH]["post"]["requestBody"]["content"][content_type]
    schema = {**content["schema"], "components": found["components"]}
    sample = (
        content.get("example")
        or schema.get("example")
        or found["components"]["schemas"]["ClearConfigurationCacheRequest"]["example"]
    )

    Draft202012Validator(schema).validate(sample)
