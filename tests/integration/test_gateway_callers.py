"""Every scheme from the header to the published command, and every refusal: over the real view, with the sample of old."""

from __future__ import annotations

import base64
import contextlib
import json
import time

import argon2
import asyncpg
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from configcache import ClearConfigurationCache
from configcache_worker.gateway.composition import build_callers
from configcache_worker.settings import (
    BrokerSettings,
    DatabaseSettings,
    GatewaySettings,
    JwtSettings,
    Settings,
)
from tests.conftest import available
from tests.gateways import in_process
from tests.tables import migrated

KEY = ec.generate_private_key(ec.SECP256R1())
FOREIGN_KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER = "https://id.example"

EVERYBODYS = b'{"Application": "WebClient", "Instance": "Web", "ForAllAssociates": true}'
OWN = b'{"Application": "WebClient", "Instance": "Web"}'

CREDENTIALS = """
INSERT INTO gateway_stored_credential (kind, name, secret_hash, associate_id, may_clear_all, expires_at) VALUES
    ('password', 'tje0', $1, 42, true, NULL),
    ('ticket', 'admin', gateway_secret_hash('7T:admin='), 42, true, now() + interval '1 hour'),
    ('ticket', 'nightly', gateway_secret_hash('7T:nightly='), 7, false, 'infinity'),
    ('ticket', 'old', gateway_secret_hash('7T:old='), 42, true, now() - interval '1 second'),
    ('app-token', 'crm', gateway_secret_hash('app'), NULL, false, NULL),
    ('app-token', 'old', gateway_secret_hash('old-app'), NULL, false, now() - interval '1 second'),
    ('session', 'tje0', gateway_secret_hash('s3ssion xsrf'), 42, true, now() + interval '1 hour'),
    ('session', 'other', gateway_secret_hash('0ther foreign'), 7, true, now() + interval '1 hour')
"""


def token(key=KEY, **claims):
    payload = {
        "iss": ISSUER,
        "aud": "configcache",
        "exp": time.time() + 86_400,  # the suite makes it when it begins, and may come here late
        "associate_id": 42,
        "may_clear_all": True,
    }
    return {"Authorization": "Bearer " + jwt.encode(payload | claims, key, "ES256", headers={"kid": "one"})}


def unsigned():
    head, payload, _ = token()["Authorization"].removeprefix("Bearer ").split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"one"}').decode().rstrip("=")
    return {"Authorization": f"Bearer {head}.{payload}."}


def ticket(name, **headers):
    return {"Authorization": f"SoTicket 7T:{name}=", **headers}


def session(session_id="s3ssion", cookie="xsrf", sent="xsrf"):
    headers = {"Cookie": f"ASP.NET_SessionId={session_id}; XSRF-TOKEN={cookie}"}
    return headers | ({"X-XSRF-TOKEN": sent} if sent is not None else {})


def basic(text):
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


APP = {"SO-AppToken": "app"}


@pytest.fixture(scope="module")
def database(servers):
    """The URL of a migrated database, for all tests here."""
    with available(), servers.database(migrated) as url:
        yield url


@pytest.fixture(scope="module")
def key_set(tmp_path_factory):
    """A file with the issuer's keys."""
    jwk = jwt.get_algorithm_by_name("ES256").to_jwk(KEY.public_key(), as_dict=True) | {"kid": "one"}
    file = tmp_path_factory.mktemp("issuer") / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk]}))
    return str(file)


@pytest.fixture
async def new_gateway(database, key_set):
    """Makes gateways whose callers are those of the database and of the issuer."""
    connection = await asyncpg.connect(database)
    await connection.execute("TRUNCATE gateway_stored_credential")
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    await connection.execute(CREDENTIALS, cheap.hash("Tje0"))
    await connection.close()

    @contextlib.asynccontextmanager
    async def new_gateway(installation, **gateway):
        settings = Settings(
            broker=BrokerSettings(url="amqp://not-used"),
            database=DatabaseSettings(url=database),
            gateway=GatewaySettings(
                installation=installation,
                jwt=JwtSettings(issuer=ISSUER, audience="configcache", jwks=key_set),
                **gateway,
            ),
        )
        async with build_callers(settings) as callers, in_process(authenticator=callers) as client:
            yield client

    return new_gateway


@pytest.mark.parametrize(
    ("installation", "headers"),
    [
        ("onsite", {"Authorization": "Basic dGplMDpUamUw"}),
        ("onsite", ticket("admin")),
        ("onsite", session()),
        ("online", token()),
        ("online", ticket("admin", **APP)),
        ("online", session()),
    ],
    ids=["Basic", "SoTicket", "session", "Bearer", "SoTicket online", "session online"],
)
async def test_every_scheme_leads_to_a_command_for_all_and_to_one_for_the_caller(
    new_gateway, installation, headers
):
    async with new_gateway(installation) as client:
        answers = [await client.call(body, **headers) for body in (EVERYBODYS, OWN)]

        assert [answer.status_code for answer in answers] == [204, 204]
        assert client.publisher.commands == [
            ClearConfigurationCache.for_all("WebClient", "Web"),
            ClearConfigurationCache.for_associate("WebClient", "Web", 42),
        ]


REFUSALS = {
    "nothing": ("onsite", {}, 401),
    "wrong password": ("onsite", basic("tje0:tje0"), 401),
    "unknown user": ("onsite", basic("nobody:Tje0"), 401),
    "no base64": ("onsite", {"Authorization": "Basic tje0:Tje0"}, 401),
    "unknown ticket": ("onsite", ticket("unknown"), 401),
    "expired ticket": ("onsite", ticket("old"), 401),
    "ticket without right": ("onsite", ticket("nightly"), 403),
    "token onsite": ("onsite", token(), 401),
    "missing XSRF token": ("onsite", session(sent=None), 401),
    "XSRF token that is not the cookie's": ("onsite", session(sent="other"), 401),
    "XSRF token of another session": ("onsite", session(cookie="foreign", sent="foreign"), 401),
    "unknown session": ("onsite", session("unknown"), 401),
    "password online": ("online", basic("tje0:Tje0"), 401),
    "ticket without app token": ("online", ticket("admin"), 401),
    "ticket with unknown app token": ("online", ticket("admin", **{"SO-AppToken": "unknown"}), 401),
    "ticket with expired app token": ("online", ticket("admin", **{"SO-AppToken": "old-app"}), 401),
    "app token that is a ticket": ("online", ticket("admin", **{"SO-AppToken": "7T:admin="}), 401),
    "forged token": ("online", token(FOREIGN_KEY), 401),
    "expired token": ("online", token(exp=time.time() - 3600), 401),
    "token for another audience": ("online", token(aud="crm"), 401),
    "token of another issuer": ("online", token(iss="https://other.example"), 401),
    "unsigned token": ("online", unsigned(), 401),
    "token without right": ("online", token(may_clear_all=False), 403),
}


@pytest.mark.parametrize(("installation", "headers", "status"), REFUSALS.values(), ids=REFUSALS)
async def test_every_other_request_is_refused_and_nothing_is_published(
    new_gateway, installation, headers, status
):
    async with new_gateway(installation) as client:
        answer = await client.call(EVERYBODYS, **headers)

        assert answer.status_code == status
        assert answer.json()["ErrorType"] == ("SoSessionException" if status == 401 else "SoSentryException")
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert client.publisher.commands == []


async def test_each_scheme_is_asked_for_in_a_field_of_its_own(new_gateway):
    async with new_gateway("online", bearer="on") as client:
        answer = await client.call(EVERYBODYS, **token(aud="crm"))

        assert answer.headers.get_list("WWW-Authenticate") == [
            'Bearer realm="configcache", error="invalid_token"',
            'SoTicket realm="configcache"',
        ]


async def test_a_guesser_is_told_to_wait(new_gateway):
    async with new_gateway("onsite", attempts=2) as client:
        answers = [await client.call(EVERYBODYS, **basic(f"tje0:guess{number}")) for number in range(3)]

        assert [answer.status_code for answer in answers] == [401, 401, 429]
        assert answers[-1].headers["Retry-After"] == "1"


async def test_a_view_that_is_gone_is_answered_503_and_told_to_the_probe(new_gateway, database):
    connection = await asyncpg.connect(database)
    await connection.execute("ALTER VIEW gateway_credential RENAME TO elsewhere")
    try:
        async with new_gateway("onsite") as client:
            answer = await client.call(EVERYBODYS, **ticket("admin"))
    finally:
        await connection.execute("ALTER VIEW elsewhere RENAME TO gateway_credential")
        await connection.close()

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["ErrorType"] == "CallersUnavailable"
