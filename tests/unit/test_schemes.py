"""What a request presents is read to the letter, and what can't be read is refused in words that repeat none of it."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from configcache_worker.gateway.challenges import challenges
from configcache_worker.gateway.schemes import (
    Accepted,
    Password,
    Scheme,
    Session,
    Ticket,
    Token,
    Unusable,
    read,
)
from configcache_worker.gateway.security import security

ALL = Accepted(frozenset(Scheme), app_token=False, session_cookie="ASP.NET_SessionId")
ONLINE = Accepted(frozenset(Scheme) - {Scheme.BASIC}, app_token=True, session_cookie="ASP.NET_SessionId")
COOKIES = {"ASP.NET_SessionId": "s3ssion", "XSRF-TOKEN": "xsrf"}


def presented(*authorization, accepted=ALL, cookies=None, **headers):
    raw = [(b"authorization", value.encode("latin-1")) for value in authorization]
    raw += [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in headers.items()]
    return read(Headers(raw=raw), cookies or {}, accepted)


def as_base64(content):
    return base64.b64encode(content).decode()


def basic(text):
    return "Basic " + as_base64(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Basic dGplMDpUamUw", Password("tje0", "Tje0")),
        ("bAsIc   dGplMDpUamUw  ", Password("tje0", "Tje0")),
        (basic("tje0:with:colons"), Password("tje0", "with:colons")),
        (basic("Þórr:pæss wörd"), Password("Þórr", "pæss wörd")),
        ("SoTicket 7T:YWJj=", Ticket("7T:YWJj=", None)),
        ("SOTicket 7T:YWJj=", Ticket("7T:YWJj=", None)),
        ("SOTICKET 7T:a:b==c", Ticket("7T:a:b==c", None)),
        ("soticket 7A:abc", Ticket("7A:abc", None)),
        ("Bearer a.b.c", Token("a.b.c")),
        ("bearer 8A:Cust12345.abc", Token("8A:Cust12345.abc")),
    ],
)
def test_a_scheme_may_be_written_in_any_case_and_what_follows_is_taken_as_it_is(value, expected):
    assert presented(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic dGplMDpUamU",  # not padded
        "Basic dGplMDpU\u00e9",
        basic(b"tje0:\xff\xfe"),
        basic("without a colon"),
        basic(":password"),
        basic("name:"),
        basic("name:line\nbreak"),
        basic("nul\0:password"),
        basic("n" * 255 + ":password"),
        "SoTicket",
        "SoTicket two words",
        "SoTicket t\u00e9",
        "Bearer",
        "Bearer two words",
        "Negotiate abc",
        "dGplMDpUamUw",
        "Session abc",
        "Basic" + " " * 20_000,
    ],
)
def test_what_cannot_be_read_is_unusable_and_not_repeated(value):
    found = presented(value)

    assert isinstance(found, Unusable)
    words = [word for word in value.split() if word.lower() not in ("basic", "soticket", "bearer", "session")]
    assert [word for word in words if word in found.message] == []


def test_two_authorization_headers_are_ambiguous():
    assert presented("SoTicket a", "SoTicket a") == Unusable("there must be a single Authorization header")


def test_a_scheme_that_is_not_accepted_is_named_with_those_that_are():
    assert presented("Basic dGplMDpUamUw", accepted=ONLINE, so_apptoken="app") == Unusable(
        "the Authorization header must begin with Bearer or SoTicket"
    )


def test_onsite_the_token_of_an_application_is_not_looked_at():
    assert presented("SoTicket 7T:a", SO_AppToken="anything") == Ticket("7T:a", None)


def test_online_a_ticket_needs_the_token_of_its_application():
    assert presented("SoTicket 7T:a", accepted=ONLINE, SO_AppToken="app") == Ticket("7T:a", "app")
    assert isinstance(presented("SoTicket 7T:a", accepted=ONLINE), Unusable)
    assert isinstance(presented("SoTicket 7T:a", accepted=ONLINE, SO_AppToken="two words"), Unusable)


def test_a_form_of_another_site_does_not_get_by_with_the_password_the_browser_remembers():
    found = [
        presented("Basic dGplMDpUamUw", Sec_Fetch_Site=site) for site in ("cross-site", "same-origin", "none")
    ]

    assert [type(one) for one in found] == [Unusable, Password, Password]


def test_without_authorization_a_session_counts_with_its_xsrf_token():
    assert presented(cookies=COOKIES, X_XSRF_TOKEN="xsrf") == Session("s3ssion", "xsrf")


def test_the_token_of_the_cookie_may_be_percent_encoded():
    cookies = COOKIES | {"XSRF-TOKEN": "a%2Bb%3D"}

    assert presented(cookies=cookies, X_XSRF_TOKEN="a+b=") == Session("s3ssion", "a+b=")


@pytest.mark.parametrize(
    ("cookies", "headers"),
    [
        ({}, {}),
        ({}, {"X_XSRF_TOKEN": "xsrf"}),
        (COOKIES, {}),
        (COOKIES, {"X_XSRF_TOKEN": ""}),
        (COOKIES, {"X_XSRF_TOKEN": "other"}),
        (COOKIES | {"XSRF-TOKEN": ""}, {"X_XSRF_TOKEN": "xsrf"}),
        ({"ASP.NET_SessionId": "s3ssion"}, {"X_XSRF_TOKEN": "xsrf"}),
        (COOKIES | {"ASP.NET_SessionId": ""}, {"X_XSRF_TOKEN": "xsrf"}),
        (COOKIES | {"ASP.NET_SessionId": "two words"}, {"X_XSRF_TOKEN": "xsrf"}),
        (COOKIES | {"XSRF-TOKEN": "two words"}, {"X_XSRF_TOKEN": "two words"}),
    ],
)
def test_a_session_without_its_token_is_unusable(cookies, headers):
    assert isinstance(presented(cookies=cookies, **headers), Unusable)


def test_an_authorization_header_counts_before_a_session():
    assert presented("SoTicket a", cookies=COOKIES, X_XSRF_TOKEN="xsrf") == Ticket("a", None)
    assert isinstance(presented("Nonsense", cookies=COOKIES, X_XSRF_TOKEN="xsrf"), Unusable)


def test_no_secret_shows_in_a_repr():
    found = [
        presented("Basic dGplMDpUamUw"),
        presented("SoTicket 7T:secret", accepted=ONLINE, SO_AppToken="secret"),
        presented("Bearer secret"),
        presented(cookies=COOKIES, X_XSRF_TOKEN="xsrf"),
    ]

    assert [
        text for text in map(repr, found) if any(word in text for word in ("Tje0", "secret", "s3", "xsrf'"))
    ] == []


@given(
    st.text(st.characters(max_codepoint=255), max_size=60)
    | st.builds(
        "{} {}".format,
        st.sampled_from(["Basic", "basic", "SoTicket", "Bearer"]),
        st.text(st.characters(max_codepoint=255), max_size=40) | st.binary(max_size=30).map(as_base64),
    ),
    st.dictionaries(
        st.sampled_from(["ASP.NET_SessionId", "XSRF-TOKEN", "other"]),
        st.text(st.characters(max_codepoint=255), max_size=20),
    ),
    st.sampled_from([ALL, ONLINE]),
)
def test_whatever_is_sent_is_read_or_refused_in_words(authorization, cookies, accepted):
    sent = [authorization] if authorization else []

    found = presented(*sent, accepted=accepted, cookies=cookies, X_XSRF_TOKEN="xsrf", SO_AppToken="app")

    match found:
        case Password(name, password):
            assert name
            assert password
        case Unusable(message):
            assert message.isprintable()


def test_a_401_asks_for_every_scheme_that_is_accepted():
    assert challenges(ALL) == (
        'Bearer realm="configcache"',
        'Basic realm="configcache", charset="UTF-8"',
        'SoTicket realm="configcache"',
    )


def test_a_bad_token_is_told_as_such():
    assert challenges(ONLINE, bad_token=True)[0] == 'Bearer realm="configcache", error="invalid_token"'


def test_a_browser_with_a_session_is_not_asked_for_a_password():
    assert challenges(ALL, with_session=True) == (
        'Bearer realm="configcache"',
        'SoTicket realm="configcache"',
    )


def test_there_is_always_a_challenge():
    only_sessions = Accepted(frozenset({Scheme.SESSION}), app_token=False, session_cookie="id")

    assert challenges(only_sessions) == ('Session realm="configcache"',)


def test_openapi_describes_what_is_accepted_and_what_goes_together():
    described = security(ONLINE)

    assert described.requirements == [
        {"bearer": []},
        {"ticket": [], "appToken": []},
        {"session": [], "xsrfToken": []},
    ]
    assert {name for parts in described.requirements for name in parts} == set(described.schemes)
    assert described.schemes["session"]["name"] == "ASP.NET_SessionId"
    assert security(ALL).requirements[1:3] == [{"basic": []}, {"ticket": []}]
