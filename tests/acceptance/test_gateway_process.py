"""The gateway as a process, before a worker, a broker and a database: a call is answered, and the rows are gone."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import subprocess

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from configcache_worker.gateway.asgi import CALL_PATH
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.testing import configuration_cache
from tests.conftest import available
from tests.gateways import BODIES, JSON, SAMPLE
from tests.waiting import eventually

BASIC = {"Authorization": "Basic dGplMDpUamUw"}
"""Of the classic sample: tje0 and his password Tje0."""
KEY = ec.generate_private_key(ec.SECP256R1())
SCHEMES = {
    "Basic": BASIC,
    "SoTicket": {"Authorization": "SoTicket 7T:NmY5ZQ=="},
    "session": {
        "Cookie": "ASP.NET_SessionId=s3ssion; XSRF-TOKEN=xsrf",
        "X-XSRF-TOKEN": "xsrf",
    },
    "Bearer": {
        "Authorization": "Bearer "
        + jwt.encode(
            {
                "iss": "https://id.example",
                "aud": "configcache",
                "exp": 4_000_000_000,
                "associate_id": 42,
                "may_clear_all": True,
            },
            KEY,
            "ES256",
            headers={"kid": "one"},
        )
    },
}
"""The same associate, in every way to say who one is."""

# The hash is argon2 of that password, made to be quick.
CREDENTIALS = """
INSERT INTO gateway_stored_credential (kind, name, secret_hash, associate_id, may_clear_all) VALUES
    ('password', 'tje0', '$argon2id$v=19$m=8,t=1,p=1$/VJXWUi4/SfgJwO5uUg1zQ$6zPkXRyfguJDAW0tSieSl1GauT5MoFgMVoSSQeXMDoU', 42, true),
    ('ticket', 'job', encode(sha256('7T:NmY5ZQ=='), 'hex'), 42, true),
    ('session', 'tje0', encode(sha256('s3ssion xsrf'), 'hex'), 42, true)
"""
OTHERS = ("WebClient", "Web", 1, "Contact")


@pytest.fixture
async def system(servers):
    """A system with a worker, some rows, and one who may call."""
    with available():
        async with configuration_cache(servers=servers) as system:
            await system.execute(CREDENTIALS)
            yield system


@pytest.fixture
async def gateway(system, start_worker, tmp_path):
    """The process, ready; and its port."""
    (port,) = free_ports(1)
    jwk = jwt.get_algorithm_by_name("ES256").to_jwk(KEY.public_key(), as_dict=True) | {"kid": "one"}
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [jwk]}))
    process = start_worker(
        system.settings,
        verb="gateway",
        CONFIGCACHE_GATEWAY__PORT=str(port),
        CONFIGCACHE_GATEWAY__BEARER="on",
        CONFIGCACHE_GATEWAY__JWT__ISSUER="https://id.example",
        CONFIGCACHE_GATEWAY__JWT__AUDIENCE="configcache",
        CONFIGCACHE_GATEWAY__JWT__JWKS=str(keys),
        CONFIGCACHE_TELEMETRY__LOG_LEVEL="debug",
    )
    process.http_port = port
    await eventually(lambda: asyncio.to_thread(process.is_ready))
    return process


def post(port, body, content_type=JSON, caller=BASIC):
    """The call, as any HTTP client makes it: status and body."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=20)
    headers = {"Content-Type": content_type, "Accept": JSON, **caller}
    connection.request("POST", CALL_PATH, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


CALLS = [(content_type, body, BASIC) for content_type, body in BODIES.items()] + [
    (JSON, SAMPLE, caller) for caller in SCHEMES.values()
]


async def test_the_classic_sample_is_204_and_the_rows_are_gone_in_every_content_type_and_by_every_scheme(
    system, gateway
):
    for content_type, body, caller in CALLS:
        await system.fill([("sed", "officia", 1, "a"), ("sed", "officia", 42, "a"), OTHERS])

        answer = await asyncio.to_thread(post, gateway.http_port, body, content_type, caller)
        await system.settled()

        assert answer == (204, b"")
        assert await system.rows() == {OTHERS}

    if shutil.which("curl"):
        await system.fill([("sed", "officia", 1, "a")])
        assert (await asyncio.to_thread(curl, gateway.http_port)).startswith("HTTP/1.1 204 No Content")
        await system.settled()
        assert await system.rows() == {OTHERS}

    assert await system.dead_letters() == []
    assert await asyncio.to_thread(gateway.terminate) == 0
    assert {line["status"] for line in gateway.events("gateway.answered")} == {204}
    said = gateway.log_path.read_text()
    assert not [secret for secret in ("Tje0", "dGplMDpUamUw", "NmY5ZQ", "s3ssion", "xsrf") if secret in said]


def curl(port):
    """The call as the classic documentation would have it sent; what curl prints."""
    outcome = subprocess.run(
        [
            *("curl", "--silent", "--include", "--request", "POST", f"http://{LOOPBACK}:{port}{CALL_PATH}"),
            *("--header", f"Authorization: {BASIC['Authorization']}"),
            *("--header", "Content-Type: application/json", "--header", "Accept: application/json"),
            *("--header", "Accept-Language: en", "--data", SAMPLE.decode()),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return outcome.stdout
