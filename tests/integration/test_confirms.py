"""A session of whoever publishes, on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import uuid

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pamqp.commands import Basic
from yarl import URL

from configcache.confirms import PublishingSession
from configcache.errors import BrokerUnavailable, Refused, Unroutable
from configcache.topology import COMMAND_EXCHANGE, COMMAND_ROUTING_KEY
from tests.commands import declare, published
from tests.proxy import Proxy


@pytest.fixture
async def broker_url(vhost):
    await declare(vhost)
    return vhost


@contextlib.asynccontextmanager
async def session_to(url: str):
    session = await PublishingSession.open(url, name="test", timeout_s=10, heartbeat_s=10)
    try:
        yield session
    finally:
        await session.close()


async def publish(
    session: PublishingSession, body: bytes = b"body", properties: bytes | None = None, **options
) -> None:
    message_id = uuid.uuid4().hex
    properties = properties or Basic.Properties(message_id=message_id, headers={"n": 1}).marshal()
    address = {"exchange": COMMAND_EXCHANGE, "routing_key": COMMAND_ROUTING_KEY}
    async with asyncio.timeout(10):
        await session.publish(body, properties, message_id=message_id, **{**address, **options})


async def test_of_many_at_once_those_without_a_queue_are_told_from_the_others(broker_url):
    keys = [COMMAND_ROUTING_KEY if number % 3 else "nobody's" for number in range(90)]
    async with session_to(broker_url) as session:
        results = await asyncio.gather(
            *(publish(session, b"%d" % number, routing_key=key) for number, key in enumerate(keys)),
            return_exceptions=True,
        )

    assert [type(result) for result in results] == [
        type(None) if number % 3 else Unroutable for number in range(90)
    ]
    bodies = {message.body for message in await published(broker_url)}
    assert bodies == {b"%d" % number for number in range(90) if number % 3}


async def test_what_may_be_lost_is_confirmed_without_a_queue(broker_url):
    async with session_to(broker_url) as session:
        await publish(session, routing_key="nobody's", mandatory=False)
        await publish(session, b"routed")

    assert [message.body for message in await published(broker_url)] == [b"routed"]


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 400_000])
async def test_a_body_of_any_size_arrives_as_it_is(broker_url, size):
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with session_to(broker_url) as session:
        await publish(session, body)

    (message,) = await published(broker_url)
    assert message.body == body
    assert message.headers["n"] == 1


async def test_a_long_body_that_comes_back_disturbs_nobody(broker_url):
    async with session_to(broker_url) as session:
        with pytest.raises(Unroutable, match="'configuration'"):
            await publish(session, bytes(400_000), routing_key="nobody's")
        await publish(session)

    assert len(await published(broker_url)) == 1


async def test_properties_too_long_for_a_frame_are_refused_and_disturb_nobody(broker_url):
    longest = 131_072 - 8 - 12
    forgiven = 8  # RabbitMQ takes frames that are a little too long

    async with session_to(broker_url) as session:
        properties = [long_properties(longest + excess) for excess in (0, forgiven + 1)]
        fits, too_long, other = await asyncio.gather(
            publish(session, properties=properties[0]),
            publish(session, properties=properties[1]),
            publish(session),
            return_exceptions=True,
        )

    assert (fits, other) == (None, None)
    assert isinstance(too_long, Refused)
    assert str(too_long) == "the properties have 131,061 bytes, and the broker takes 131,052 at most"
    assert len(await published(broker_url)) == 2


def long_properties(size: int) -> bytes:
    """Properties of *size* bytes."""
    without = len(Basic.Properties(message_id=uuid.uuid4().hex, headers={"long": ""}).marshal())
    return Basic.Properties(message_id=uuid.uuid4().hex, headers={"long": "x" * (size - without)}).marshal()


async def test_what_the_broker_says_when_it_closes_the_channel_ends_the_session(broker_url):
    async with session_to(broker_url) as session:
        results = await asyncio.gather(
            *(publish(session, exchange="missing") for _ in range(20)), return_exceptions=True
        )
        assert {type(result) for result in results} == {Refused}
        with pytest.raises(Refused, match="no exchange 'missing'"):
            await publish(session)
        with pytest.raises(Refused, match="no exchange 'missing'"):
            await session.wait_ended()

    assert await published(broker_url) == []


async def test_a_cut_line_is_told_to_all_that_wait(broker_url):
    async with Proxy(broker_url) as line, session_to(line.url) as session:
        await publish(session)
        line.freeze()
        publishing = [asyncio.create_task(publish(session)) for _ in range(50)]
        await asyncio.sleep(0)
        line.cut()
        results = await asyncio.gather(*publishing, return_exceptions=True)

    assert {type(result) for result in results} == {BrokerUnavailable}


async def test_publishes_over_an_encrypted_line(broker_url, tmp_path):
    tls = encrypting(tmp_path / "certificate.pem")
    async with Proxy(broker_url, tls=tls) as line:
        url = URL(line.url).update_query(cafile=str(tmp_path / "certificate.pem"))
        async with session_to(str(url)) as session:
            await asyncio.gather(*(publish(session) for _ in range(50)))

    assert len(await published(broker_url)) == 50


def encrypting(file) -> ssl.SSLContext:
    """What a server at 127.0.0.1 needs for TLS; clients trust the certificate in *file*."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context
