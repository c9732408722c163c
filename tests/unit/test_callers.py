"""Who calls is found out once, at a cost that tells nothing, and never from what a request merely says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import time

import argon2
import pytest
import structlog
from starlette.requests import Request

from configcache_worker.gateway.attempts import Attempts
from configcache_worker.gateway.authentication import Associate, Refusal
from configcache_worker.gateway.callers import Callers
from configcache_worker.gateway.credentials import CredentialVerifier
from configcache_worker.gateway.keys import KeysUnavailable
from configcache_worker.gateway.passwords import Busy, PasswordChecker, UnusableHash, hash_password
from configcache_worker.gateway.schemes import Accepted, Scheme
from configcache_worker.gateway.tokens import BadToken
from configcache_worker.gateway.verified import Verified
from configcache_worker.postgres.credentials import CredentialsUnavailable, StoredCredential

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
TJE0 = StoredCredential("tje0", CHEAP.hash("Tje0"), 42, may_clear_all=True, expires_in_s=None)
BASIC = {"Authorization": "Basic dGplMDpUamUw"}
TICKET = {"Authorization": "SoTicket 7T:YWJj="}
SESSION = {"Cookie": "ASP.NET_SessionId=s3ssion; XSRF-TOKEN=xsrf", "X-XSRF-TOKEN": "xsrf"}
ONSITE = Accepted(
    frozenset({Scheme.BASIC, Scheme.TICKET, Scheme.SESSION}),
    app_token=False,
    session_cookie="ASP.NET_SessionId",
)
ONLINE = Accepted(
    frozenset({Scheme.BEARER, Scheme.TICKET, Scheme.SESSION}),
    app_token=True,
    session_cookie="ASP.NET_SessionId",
)


def hashed(secret):
    return hashlib.sha256(secret.encode()).hexdigest()


def stored(secret, name="label", associate_id=42, *, may_clear_all=False, expires_in_s=None):
    return StoredCredential(name, hashed(secret), associate_id, may_clear_all, expires_in_s)


def request(headers, client="192.0.2.1"):
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "client": (client, 50_000) if client else None})


def basic(name, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


class Store:
    """Credentials in memory."""

    def __init__(self, **rows):
        self.rows = {kind.replace("_", "-"): list(found) for kind, found in rows.items()}
        self.look_ups = 0
        self.fault = None

    async def by_name(self, kind, name):
        return self._found(kind, lambda row: row.name == name)

    async def by_hash(self, kind, secret_hash):
        return self._found(kind, lambda row: row.secret_hash == secret_hash)

    def _found(self, kind, fits):
        self.look_ups += 1
        if self.fault:
            raise CredentialsUnavailable(self.fault)
        return [row for row in self.rows.get(kind, []) if fits(row)]


class Tokens:
    """Judges tokens as it is told."""

    def __init__(self, judgement):
        self.judgement = judgement

    async def judge(self, token):
        if isinstance(self.judgement, Exception):
            raise self.judgement
        return self.judgement

    async def probe(self):
        await self.judge("")


@pytest.fixture
def passwords():
    checker = PasswordChecker()
    yield checker
    checker.close()


@pytest.fixture
def new_callers(passwords):
    def new_callers(store=None, *, accepted=ONSITE, tokens=None, on_a_name=5, ttl_s=60.0):
        async def close():
            pass

        return Callers(
            accepted=accepted,
            credentials=CredentialVerifier(store or Store(), passwords=passwords),
            verified=Verified(ttl_s=ttl_s),
            attempts=Attempts(on_a_name=on_a_name, of_a_client=100, longest_s=300),
            tokens=tokens,
            close=close,
        )

    return new_callers


async def test_the_classic_sample_is_let_in(new_callers):
    callers = new_callers(Store(password=[TJE0]))

    assert await callers.authenticate(request(BASIC)) == Associate(42, may_clear_all=True)


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(new_callers):
    callers = new_callers(Store(password=[TJE0]))

    wrong = await callers.authenticate(request(basic("tje0", "wrong")))
    unknown = await callers.authenticate(request(basic("nobody", "wrong")))

    assert (
        wrong
        == unknown
        == Refusal(
            401,
            "SoSessionException",
            "the user or the password is wrong",
            ('Basic realm="configcache", charset="UTF-8"', 'SoTicket realm="configcache"'),
        )
    )


@pytest.mark.parametrize(
    "row",
    [
        TJE0._replace(expires_in_s=0),
        TJE0._replace(associate_id=None),
        TJE0._replace(associate_id=0),
        TJE0._replace(secret_hash="Tje0"),
        TJE0._replace(secret_hash=""),
        TJE0._replace(secret_hash="$argon2id$v=19$m=8,t=1,p=1$é$x"),
        TJE0._replace(secret_hash=hashed("Tje0")),
    ],
    ids=lambda row: f"{row.secret_hash[:9]},{row.associate_id},{row.expires_in_s}",
)
async def test_an_expired_or_unusable_row_is_refused_like_a_wrong_password(new_callers, row):
    refusal = await new_callers(Store(password=[row])).authenticate(request(BASIC))

    assert (refusal.status, refusal.message) == (401, "the user or the password is wrong")


async def test_two_rows_of_one_name_let_nobody_in(new_callers):
    callers = new_callers(Store(password=[TJE0, TJE0._replace(associate_id=43)]))

    with structlog.testing.capture_logs() as lines:
        refusal = await callers.authenticate(request(BASIC))

    assert refusal.status == 401
    assert {line["event"] for line in lines} == {"credential.unusable", "caller.refused"}


async def test_a_right_that_is_null_is_none(new_callers):
    callers = new_callers(Store(password=[TJE0._replace(may_clear_all=None)]))

    assert await callers.authenticate(request(BASIC)) == Associate(42, may_clear_all=False)


async def test_a_ticket_is_found_by_its_hash(new_callers):
    callers = new_callers(Store(ticket=[stored("7T:YWJj=")]))

    assert await callers.authenticate(request(TICKET)) == Associate(42, may_clear_all=False)
    assert (await callers.authenticate(request({"Authorization": "SoTicket 7T:YWJj"}))).status == 401


async def test_an_expired_ticket_is_refused_like_an_unknown_one(new_callers):
    expired = await new_callers(Store(ticket=[stored("7T:YWJj=", expires_in_s=0)])).authenticate(
        request(TICKET)
    )
    unknown = await new_callers().authenticate(request(TICKET))

    assert expired == unknown
    assert (expired.status, expired.message) == (401, "the ticket, or the application's token, is not valid")


async def test_a_database_that_takes_other_texts_for_equal_lets_nobody_in(new_callers):
    class Lax(Store):
        async def by_hash(self, kind, secret_hash):
            return self.rows.get(kind, [])

    callers = new_callers(Lax(ticket=[stored("7T:other")]))

    assert (await callers.authenticate(request(TICKET))).status == 401


@pytest.mark.parametrize(
    ("app_tokens", "sent", "status"),
    [
        ([stored("app", associate_id=None)], {"SO-AppToken": "app"}, None),
        ([stored("app", associate_id=None)], {}, 401),
        ([stored("app", associate_id=None)], {"SO-AppToken": "other"}, 401),
        ([stored("app", associate_id=None, expires_in_s=0)], {"SO-AppToken": "app"}, 401),
        ([], {"SO-AppToken": "app"}, 401),
    ],
    ids=["right", "missing", "wrong", "expired", "unknown"],
)
async def test_online_a_ticket_counts_with_the_token_of_an_application(new_callers, app_tokens, sent, status):
    store = Store(ticket=[stored("7T:YWJj=")], app_token=app_tokens)

    outcome = await new_callers(store, accepted=ONLINE).authenticate(request(TICKET | sent))

    assert getattr(outcome, "status", None) == status


async def test_a_session_belongs_to_its_xsrf_token(new_callers):
    callers = new_callers(Store(session=[stored("s3ssion xsrf"), stored("other foreign")]))
    foreign = {"Cookie": "ASP.NET_SessionId=s3ssion; XSRF-TOKEN=foreign", "X-XSRF-TOKEN": "foreign"}

    assert await callers.authenticate(request(SESSION)) == Associate(42, may_clear_all=False)
    assert (
        await callers.authenticate(request(foreign))
    ).message == "the session is not valid, or its X-XSRF-TOKEN"


async def test_a_page_whose_session_has_ended_does_not_make_its_browser_ask_for_a_password(new_callers):
    callers = new_callers()
    refusals = [
        await callers.authenticate(request(SESSION)),
        await callers.authenticate(request({"Cookie": SESSION["Cookie"]})),
    ]

    assert [refusal.challenges for refusal in refusals] == [('SoTicket realm="configcache"',)] * 2


@pytest.mark.parametrize(
    ("judgement", "expected"),
    [
        (Associate(7, may_clear_all=True), Associate(7, may_clear_all=True)),
        (
            BadToken("the token has expired"),
            Refusal(
                401,
                "SoSessionException",
                "the token has expired",
                ('Bearer realm="configcache", error="invalid_token"', 'SoTicket realm="configcache"'),
            ),
        ),
        (
            KeysUnavailable("the issuer is away"),
            Refusal(
                503,
                "CallersUnavailable",
                "callers can't be verified at the moment",
                retry_after_s=5,
            ),
        ),
    ],
    ids=["good", "bad", "no keys"],
)
async def test_a_token_is_judged(new_callers, judgement, expected):
    callers = new_callers(accepted=ONLINE, tokens=Tokens(judgement))

    assert await callers.authenticate(request({"Authorization": "Bearer a.b.c"})) == expected


async def test_a_credential_that_was_verified_is_not_looked_up_for_a_while(new_callers):
    store = Store(password=[TJE0])
    callers = new_callers(store)
    await callers.authenticate(request(BASIC))
    store.rows.clear()

    assert isinstance(await callers.authenticate(request(BASIC)), Associate)
    assert store.look_ups == 1
    assert (await callers.authenticate(request(basic("tje0", "wrong")))).status == 401


async def test_with_no_time_to_live_each_request_is_looked_up(new_callers):
    store = Store(password=[TJE0])
    callers = new_callers(store, ttl_s=0)
    await callers.authenticate(request(BASIC))
    store.rows.clear()

    assert (await callers.authenticate(request(BASIC))).status == 401


async def test_a_crowd_with_one_credential_costs_one_look_up(new_callers):
    store = Store(password=[TJE0])
    callers = new_callers(store)

    outcomes = await asyncio.gather(*(callers.authenticate(request(BASIC)) for _ in range(50)))

    assert set(outcomes) == {Associate(42, may_clear_all=True)}
    assert store.look_ups == 1


async def test_guesses_at_the_same_time_are_no_more_than_one_after_the_other(new_callers):
    store = Store(password=[TJE0])
    callers = new_callers(store, on_a_name=5)
    guesses = [basic("tje0", f"guess {number}") for number in range(40)]

    outcomes = await asyncio.gather(*(callers.authenticate(request(guess)) for guess in guesses))

    assert [outcome.status for outcome in outcomes] == [401] * 5 + [429] * 35
    assert store.look_ups == 5
    assert outcomes[-1] == Refusal(429, "TooManyAttempts", "too many wrong attempts", retry_after_s=1)


async def test_who_must_wait_is_refused_with_the_right_password_too_and_others_are_not(new_callers):
    callers = new_callers(Store(password=[TJE0]), on_a_name=1)
    await callers.authenticate(request(basic("tje0", "wrong")))

    assert (await callers.authenticate(request(BASIC))).status == 429
    assert isinstance(await callers.authenticate(request(BASIC, client="192.0.2.2")), Associate)
    assert (await callers.authenticate(request(basic("other", "wrong")))).status == 401


async def test_the_right_password_makes_up_for_wrong_ones(new_callers):
    callers = new_callers(Store(password=[TJE0]), on_a_name=2, ttl_s=0)
    wrong = basic("tje0", "wrong")

    outcomes = [await callers.authenticate(request(sent)) for sent in (wrong, BASIC, wrong, BASIC)]

    assert [getattr(outcome, "status", 204) for outcome in outcomes] == [401, 204, 401, 204]


async def test_an_unknown_name_is_throttled_like_a_known_one(new_callers):
    callers = new_callers(Store(password=[TJE0]), on_a_name=2)

    for name in ("tje0", "nobody"):
        statuses = [(await callers.authenticate(request(basic(name, "wrong")))).status for _ in range(3)]
        assert statuses == [401, 401, 429]


async def test_one_who_repeats_an_old_ticket_does_not_keep_the_others_at_its_address_out(new_callers):
    callers = new_callers(Store(ticket=[stored("7T:YWJj=")]), on_a_name=2)
    old = {"Authorization": "SoTicket 7T:old"}

    assert [(await callers.authenticate(request(old))).status for _ in range(3)] == [401, 401, 429]
    assert isinstance(await callers.authenticate(request(TICKET)), Associate)


async def test_a_database_that_is_away_is_nobodys_fault_and_told_once(new_callers):
    store = Store(password=[TJE0])
    callers = new_callers(store, on_a_name=1)
    store.fault = "no connection"

    with structlog.testing.capture_logs() as lines:
        refusals = [await callers.authenticate(request(BASIC)) for _ in range(3)]
        store.fault = None
        assert isinstance(await callers.authenticate(request(BASIC)), Associate)

    assert {(refusal.status, refusal.retry_after_s) for refusal in refusals} == {(503, 5)}
    assert [line["event"] for line in lines] == ["callers.unverifiable", "callers.verifiable"]


async def test_troubles_are_those_of_looking_up_and_of_keys(new_callers):
    store = Store()
    away = Tokens(KeysUnavailable("the issuer is away"))

    assert await new_callers(store).troubles() == {}
    assert await new_callers(store, tokens=away).troubles() == {"callers": "the issuer is away"}
    store.fault = "no connection"
    assert await new_callers(store).troubles() == {"callers": "no connection"}


async def test_a_client_without_an_address_is_a_client(new_callers):
    callers = new_callers(Store(password=[TJE0]))

    assert isinstance(await callers.authenticate(request(BASIC, client=None)), Associate)


async def test_logs_hold_the_names_of_users_and_nothing_else_that_was_sent(new_callers):
    callers = new_callers(
        Store(password=[TJE0], ticket=[stored("7T:old", "nightly", expires_in_s=0)]), on_a_name=1
    )
    headers = [
        basic("tje0", "wr0ng"),
        basic("my-p4ssword", "wr0ng"),
        {"Authorization": "SoTicket 7T:old"},
        {"Authorization": "SoTicket 7T:unkn0wn"},
        {"Authorization": "Basic n0nsense"},
        SESSION,
    ]

    with structlog.testing.capture_logs() as lines:
        refusals = [await callers.authenticate(request(sent)) for sent in headers]

    told = repr(lines) + repr(refusals)
    assert {line.get("name") for line in lines} == {"tje0", "nightly", None}
    assert [
        word for word in ("wr0ng", "p4ss", "7T:", "n0n", "s3ss", "=xsrf", hashed("7T:old")) if word in told
    ] == []


# Passwords


async def test_a_hash_that_was_made_is_matched_by_its_password_alone(passwords):
    made = hash_password("Tje0")

    assert made.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert await passwords.matches("Tje0", made)
    assert not await passwords.matches("tje0", made)


@pytest.mark.parametrize(
    "no_hash",
    [
        None,
        "",
        "!",
        "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "$argon2id$v=19$m=8,t=1,p=1$$",
    ],
    ids=["nobody", "empty", "locked", "bcrypt", "argon2-without-a-hash"],
)
async def test_nobody_takes_as_long_as_somebody(passwords, no_hash):
    async def seconds(secret_hash):
        started = time.process_time()
        for _ in range(5):
            with contextlib.suppress(UnusableHash):
                assert not await passwords.matches("wrong", secret_hash)
        return time.process_time() - started

    heavy = argon2.PasswordHasher(time_cost=2, memory_cost=8_192, parallelism=1).hash("Tje0")
    somebody = await seconds(heavy)
    nobody = await seconds(no_hash)

    assert 0.4 < nobody / somebody < 2.5


async def test_more_comparisons_than_can_wait_are_refused():
    passwords = PasswordChecker(at_once=1, most_waiting=1)
    outcomes = await asyncio.gather(
        *(passwords.matches("Tje0", TJE0.secret_hash) for _ in range(4)), return_exceptions=True
    )
    passwords.close()

    assert outcomes[:2] == [True, True]
    assert [type(outcome) for outcome in outcomes[2:]] == [Busy, Busy]


async def test_a_server_that_is_busy_says_so(new_callers, monkeypatch):
    async def matches(*_):
        raise Busy

    callers = new_callers(Store(password=[TJE0]))
    monkeypatch.setattr(PasswordChecker, "matches", matches)

    refusal = await callers.authenticate(request(BASIC))

    assert (refusal.status, refusal.retry_after_s) == (503, 1)


async def test_what_is_no_hash_is_told_without_repeating_it(passwords):
    with pytest.raises(UnusableHash) as error:
        await passwords.matches("Tje0", "plain-s3cret")

    assert "s3cret" not in str(error.value)
