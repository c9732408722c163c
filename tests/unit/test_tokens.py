"""A JWT counts if its issuer has signed it, for us, and for now; whatever it says of itself."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from configcache_worker.gateway.authentication import Associate
from configcache_worker.gateway.key_sources import KeyFile, key_source
from configcache_worker.gateway.keys import KeySet, KeysUnavailable, parse
from configcache_worker.gateway.tokens import BadToken, Claims, TokenJudge
from tests.waiting import eventually

ISSUER = "https://id.example/realms/crm"
AUDIENCE = "configcache"
CLAIMS = Claims(associate="associate_id", right="may_clear_all", right_value="")


class Signer:
    """A private key, made when it is needed, and its public part as the issuer would publish it."""

    def __init__(self, kid, make_key, algorithm):
        self.kid, self.make_key, self.algorithm = kid, make_key, algorithm

    @functools.cached_property
    def key(self):
        return self.make_key()

    @functools.cached_property
    def jwk(self):
        public = self.key.public_key()
        return jwt.get_algorithm_by_name(self.algorithm).to_jwk(public, as_dict=True) | {"kid": self.kid}

    def sign(self, *, headers=None, without=(), **claims):
        now = int(time.time())
        known = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 60, "associate_id": 42} | claims
        payload = {name: value for name, value in known.items() if name not in without}
        return jwt.encode(payload, self.key, self.algorithm, headers={"kid": self.kid} | (headers or {}))


CLAIM_NAMES = st.sampled_from(
    [
        "alg",
        "kid",
        "typ",
        "crit",
        "b64",
        "iss",
        "aud",
        "exp",
        "nbf",
        "iat",
        "sub",
        "jti",
        "associate_id",
        "may_clear_all",
    ]
)


def rsa_key(bits=2048):
    return rsa.generate_private_key(65537, bits)


def ec_key():
    return ec.generate_private_key(ec.SECP256R1())


RSA = Signer("rsa", rsa_key, "RS256")
EC = Signer("ec", ec_key, "ES256")
ED = Signer("ed", ed25519.Ed25519PrivateKey.generate, "EdDSA")
FOREIGN = Signer("ec", ec_key, "ES256")


class Published:
    """What the issuer publishes at the moment."""

    fresh_s = 300.0
    again_s = 10.0

    def __init__(self, *signers):
        self.signers = signers
        self.readings = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def read(self):
        self.readings += 1
        await self.answers.wait()
        if not self.signers:
            raise KeysUnavailable("the issuer is away")
        return document(*(signer.jwk for signer in self.signers))


class Clock:
    def __init__(self):
        self.time_s = 1_000.0

    def __call__(self):
        return self.time_s


def document(*jwks):
    return json.dumps({"keys": jwks}).encode()


def judge_of(*signers, claims=CLAIMS, leeway_s=0.0):
    keys = KeySet(Published(*signers))
    return TokenJudge(keys, issuer=ISSUER, audience=AUDIENCE, leeway_s=leeway_s, claims=claims)


async def judged(token, *signers, **arguments):
    return await judge_of(*(signers or (RSA, EC, ED)), **arguments).judge(token)


def encoded(part):
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


@pytest.mark.parametrize("signer", [RSA, EC, ED], ids=lambda signer: signer.algorithm)
async def test_a_good_token_names_its_associate(signer):
    assert await judged(signer.sign()) == Associate(42, may_clear_all=False)


async def test_our_name_may_be_one_of_several_audiences():
    assert await judged(EC.sign(aud=["crm", AUDIENCE])) == Associate(42, may_clear_all=False)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": time.time() - 1}, "has expired"),
        ({"aud": "another"}, "for another audience"),
        ({"aud": []}, "has no aud"),
        ({"aud": {"configcache": 1}}, "for another audience"),
        ({"iss": "https://id.example/realms/other"}, "from another issuer"),
        ({"iss": ISSUER + "/"}, "from another issuer"),
        ({"nbf": time.time() + 100}, "not valid yet"),
        ({"iat": time.time() + 100}, "not valid yet"),
        ({"exp": "soon"}, "not valid"),
        ({"without": ["exp"]}, "has no exp"),
        ({"without": ["iss"]}, "has no iss"),
        ({"without": ["aud"]}, "has no aud"),
        ({"without": ["associate_id"]}, "names no associate"),
    ],
)
async def test_a_token_that_is_signed_is_refused_with_what_is_wrong(claims, words):
    refused = await judged(EC.sign(**claims))

    assert isinstance(refused, BadToken)
    assert words in refused.message


async def test_clocks_may_differ_by_the_leeway():
    token = EC.sign(exp=time.time() - 5, nbf=time.time() + 5)

    assert await judged(token, leeway_s=10) == Associate(42, may_clear_all=False)
    assert isinstance(await judged(token, leeway_s=2), BadToken)


async def test_a_forged_signature_is_refused():
    assert await judged(FOREIGN.sign()) == BadToken("the token's signature is wrong")


async def test_changed_claims_are_refused():
    head, _, signature = EC.sign().split(".")
    _, payload, _ = FOREIGN.sign(associate_id=1, may_clear_all=True).split(".")

    assert await judged(f"{head}.{payload}.{signature}") == BadToken("the token's signature is wrong")


@pytest.mark.parametrize("algorithm", ["none", "nOne", "NONE", "", None, 7, ["ES256"]], ids=repr)
async def test_a_token_without_a_signature_is_refused(algorithm):
    _, payload, _ = EC.sign(may_clear_all=True).split(".")
    head = encoded(json.dumps({"alg": algorithm, "typ": "JWT", "kid": "ec"}).encode())

    for token in (f"{head}.{payload}.", f"{head}.{payload}.{encoded(b'x')}"):
        refused = await judged(token)
        assert isinstance(refused, BadToken)
        assert "must be signed by one of" in refused.message


async def test_the_public_key_is_no_password():
    pem = RSA.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _, payload, _ = RSA.sign(may_clear_all=True).split(".")
    head = encoded(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "rsa"}).encode())
    signature = hmac.digest(pem, f"{head}.{payload}".encode(), hashlib.sha256)

    refused = await judged(f"{head}.{payload}.{encoded(signature)}")

    assert isinstance(refused, BadToken)
    assert "must be signed by one of" in refused.message


async def test_a_key_serves_the_algorithms_of_its_kind_alone():
    token = EC.sign(headers={"kid": "rsa"})

    assert await judged(token) == BadToken("the token is signed with a key that the issuer does not publish")


async def test_keys_that_a_token_brings_along_are_not_looked_at():
    token = FOREIGN.sign(headers={"jwk": FOREIGN.jwk, "jku": "https://evil.example/jwks", "kid": "own"})

    assert await judged(token) == BadToken("the token is signed with a key that the issuer does not publish")


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b",
        "a.b.c",
        "e30.e30.e30",
        "....",
        "8A:Cust12345.abcdef",
        encoded(b"[" * 9_000) + ".e30.e30",
        encoded(b'{"alg":"ES256","kid":7}') + ".e30.e30",
        encoded(b'{"alg":"ES256","kid":"ec","crit":["exp"]}') + ".e30.e30",
        encoded(b"\xff\xfe") + ".e30.e30",
    ],
)
async def test_what_is_no_token_is_refused(token):
    assert isinstance(await judged(token), BadToken)


@pytest.mark.parametrize("value", [42, "42", 2**63 - 1, str(2**63 - 1)], ids=repr)
async def test_an_associate_is_a_number_or_its_digits(value):
    assert await judged(EC.sign(associate_id=value)) == Associate(int(value), may_clear_all=False)


@pytest.mark.parametrize(
    "value",
    [0, -1, 42.0, True, None, "", "042", "42 ", "tje0", 2**63, str(2**63), [42], {"id": 42}],
    ids=repr,
)
async def test_any_other_value_names_no_associate(value):
    refused = await judged(EC.sign(associate_id=value))

    assert isinstance(refused, BadToken)
    assert "names no associate" in refused.message


async def test_dots_lead_into_a_claim_that_is_an_object_unless_there_is_one_of_the_whole_name():
    claims = Claims(associate="crm.id", right="realm.roles", right_value="admin")
    inner = {"crm": {"id": 7}, "realm": {"roles": ["user", "admin"]}}

    assert await judged(EC.sign(**inner), claims=claims) == Associate(7, may_clear_all=True)
    assert await judged(EC.sign(**inner, **{"crm.id": 8}), claims=claims) == Associate(8, may_clear_all=True)


@pytest.mark.parametrize(
    ("value", "wanted", "may"),
    [
        (True, "", True),
        (False, "", False),
        ("true", "", False),
        (1, "", False),
        (None, "", False),
        (["a", "clear-all"], "clear-all", True),
        (["clear-all-of-mine"], "clear-all", False),
        ("openid clear-all", "clear-all", True),
        ("openid clear-all-of-mine", "clear-all", False),
        (True, "clear-all", False),
        ({"clear-all": True}, "clear-all", False),
    ],
)
async def test_the_right_is_true_or_has_the_value_in_it(value, wanted, may):
    claims = Claims(associate="associate_id", right="right", right_value=wanted)

    assert await judged(EC.sign(right=value), claims=claims) == Associate(42, may_clear_all=may)


PARTS = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=30).map(encoded),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CLAIM_NAMES, inner, max_size=4),
    ).map(lambda value: encoded(json.dumps(value).encode())),
)


@given(st.lists(PARTS, min_size=1, max_size=4))
async def test_whatever_is_made_up_is_refused(parts):
    assert isinstance(await judged(".".join(parts)), BadToken)


@given(
    st.dictionaries(
        CLAIM_NAMES, st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.lists(st.none())
    )
)
async def test_whatever_an_issuer_signs_is_judged(claims):
    now = int(time.time())
    payload = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 60, "associate_id": 42} | claims
    signed = jwt.api_jws.encode(json.dumps(payload).encode(), EC.key, "ES256", headers={"kid": "ec"})

    judgement = await judged(signed)

    if isinstance(judgement, Associate):
        assert payload["iss"] == ISSUER
        assert payload["aud"] == AUDIENCE
        assert payload.get("may_clear_all") is True or not judgement.may_clear_all


# The keys


async def test_a_token_without_a_kid_is_verified_by_the_only_key_of_its_kind():
    token = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "associate_id": 42}, EC.key, "ES256"
    )
    other = Signer("other", ec_key, "ES256")

    assert await judged(token, RSA, EC) == Associate(42, may_clear_all=False)
    assert isinstance(await judged(token, EC, other), BadToken)


async def test_a_key_that_is_new_is_found_at_the_first_token_it_has_signed():
    published, clock = Published(RSA), Clock()
    keys = KeySet(published, now=clock)
    await keys.find("rsa", "RS256")
    published.signers = (RSA, EC)
    clock.time_s += published.again_s

    assert (await keys.find("ec", "ES256")).kid == "ec"


async def test_whoever_makes_up_keys_does_not_make_us_ask_again_and_again():
    published, clock = Published(RSA), Clock()
    keys = KeySet(published, now=clock)
    for number in range(100):
        assert await keys.find(f"made-up-{number}", "RS256") is None
        clock.time_s += 0.1

    assert published.readings <= 2


async def test_a_key_that_was_withdrawn_is_gone_when_the_set_has_grown_old():
    published, clock = Published(RSA, EC), Clock()
    keys = KeySet(published, now=clock)
    await keys.find("ec", "ES256")
    published.signers = (RSA,)
    clock.time_s += published.fresh_s

    assert await keys.find("ec", "ES256") is None


async def test_the_last_good_keys_serve_while_the_issuer_is_away():
    published, clock = Published(EC), Clock()
    keys = KeySet(published, now=clock)
    await keys.find("ec", "ES256")
    published.signers = ()
    clock.time_s += published.fresh_s

    assert (await keys.find("ec", "ES256")).kid == "ec"


async def test_without_any_keys_nothing_is_said_of_the_token_and_they_are_asked_for_again():
    published, clock = Published(), Clock()
    keys = KeySet(published, now=clock)
    for _ in range(3):
        with pytest.raises(KeysUnavailable, match="the issuer is away"):
            await keys.find("ec", "ES256")
    assert published.readings == 1

    published.signers = (EC,)
    clock.time_s += published.again_s

    assert (await keys.find("ec", "ES256")).kid == "ec"


async def test_callers_at_the_same_time_share_one_reading():
    published = Published(EC)
    published.answers.clear()
    keys = KeySet(published)
    finding = [asyncio.create_task(keys.find("ec", "ES256")) for _ in range(10)]
    await eventually(lambda: published.readings)
    published.answers.set()

    assert [key.kid for key in await asyncio.gather(*finding)] == ["ec"] * 10
    assert published.readings == 1


async def test_a_reading_is_given_up_at_the_end():
    published = Published(EC)
    published.answers.clear()
    keys = KeySet(published)
    finding = asyncio.create_task(keys.find("ec", "ES256"))
    await eventually(lambda: published.readings)

    await keys.close()

    with pytest.raises(KeysUnavailable):
        await finding


def test_only_what_can_verify_a_signature_is_taken_from_a_set():
    private = jwt.get_algorithm_by_name("ES256").to_jwk(EC.key, as_dict=True)
    small = Signer("small", lambda: rsa_key(1024), "RS256").jwk

    keys = parse(
        document(
            EC.jwk,
            {**RSA.jwk, "use": "enc"},
            {**RSA.jwk, "key_ops": ["encrypt"]},
            {**RSA.jwk, "alg": "RSA-OAEP"},
            {**RSA.jwk, "alg": "PS256", "kid": "pss"},
            {**RSA.jwk, "n": "?"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
            {"kty": "EC", "crv": "secp256k1", "x": "", "y": ""},
            small,
            {**private, "kid": "private"},
        )
    )

    assert [(key.kid, key.algorithms) for key in keys] == [
        ("ec", ("ES256",)),
        ("pss", ("PS256",)),
        ("private", ("ES256",)),
    ]
    assert not hasattr(keys[-1].key, "private_numbers")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b'{"keys": []}',
        b"\xff",
        b"[" * 99_999,
    ],
)
def test_what_is_no_key_set_is_refused_in_words(text):
    with pytest.raises(KeysUnavailable, match="key"):
        parse(text)


async def test_a_file_that_is_replaced_is_read_again(tmp_path):
    clock, file = Clock(), tmp_path / "jwks.json"
    file.write_bytes(document(RSA.jwk))
    keys = KeySet(key_source(str(file)), now=clock)
    assert await keys.find("ec", "ES256") is None

    file.write_bytes(document(EC.jwk))
    clock.time_s += KeyFile.again_s

    assert (await keys.find("ec", "ES256")).kid == "ec"
    assert await keys.find("rsa", "RS256") is None


async def test_a_file_that_is_not_there_or_too_large_is_told(tmp_path):
    with pytest.raises(KeysUnavailable, match="can't be read: no such file or directory"):
        await KeyFile(tmp_path / "none").read()
    (tmp_path / "large").write_bytes(b" " * 1_048_577)
    with pytest.raises(KeysUnavailable, match="more than 1,048,576 bytes"):
        await KeyFile(tmp_path / "large").read()


@pytest.fixture
def issuer():
    """A web server of the issuer's, and what it answers by path."""
    answers = {"/jwks": (200, document(EC.jwk), {}), "/moved": (302, b"", {"Location": "/jwks"})}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body, headers = answers.get(self.path, (404, b"", {}))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_keys_are_fetched_from_a_url(issuer):
    keys = KeySet(key_source(f"{issuer}/jwks"))

    assert (await keys.find("ec", "ES256")).kid == "ec"


async def test_a_url_that_leads_elsewhere_or_nowhere_is_told(issuer):
    for path, words in (("/moved", "answers 302"), ("/none", "answers 404")):
        with pytest.raises(KeysUnavailable, match=words):
            await key_source(issuer + path).read()
    with pytest.raises(KeysUnavailable, match=r"no key set at http://127\.0\.0\.1:1/"):
        await key_source("http://127.0.0.1:1/").read()
