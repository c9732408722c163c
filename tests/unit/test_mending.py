"""What a dead letter would be published as: mended where that is asked for, and never against the contract."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from configcache import ClearConfigurationCache, ContractError, decode
from configcache_worker.letters.bounds import LONGEST_PROPERTIES_BYTES
from configcache_worker.letters.letter import read_letter
from configcache_worker.letters.mending import Mending, Refusal, Replay, parse_setting, prepare
from tests.letters import FOR_42, FOR_ALL, NO_ASSOCIATE, UNREADABLE, a_delivery, a_letter


def prepared(delivery, **mending):
    return prepare(read_letter(delivery), Mending(**mending), message_id="fresh")


def mended(body, **mending):
    return prepared(a_letter(body), **mending)


def properties_of(replay):
    content = ContentHeader()
    content.unmarshal(bytes(12) + replay.properties)
    return content.properties


def test_a_letter_that_keeps_the_contract_is_replayed_as_it_is():
    replay = mended(FOR_42)

    assert isinstance(replay, Replay)
    assert replay.body == FOR_42
    assert replay.command == ClearConfigurationCache.for_associate("WebClient", "Web", 42)


def test_a_letter_that_breaks_it_is_refused_with_the_reason_of_now():
    refusal = mended(NO_ASSOCIATE)

    assert isinstance(refusal, Refusal)
    assert refusal.reason == "missing-associate"
    assert "AssociateId must name" in refusal.detail


@pytest.mark.parametrize(
    ("body", "mending", "published"),
    [
        (NO_ASSOCIATE, {"set": {"AssociateId": 42}}, FOR_42),
        (NO_ASSOCIATE, {"set": {"ForAllAssociates": True}}, FOR_ALL),
        (FOR_42, {"unset": {"AssociateId"}, "set": {"ForAllAssociates": True}}, FOR_ALL),
        (
            b'{"Application":"WebClient","Instance":"Web","ForAllAssociate":true}',
            {"unset": {"ForAllAssociate"}, "set": {"ForAllAssociates": True}},
            FOR_ALL,
        ),
        (
            b'{"Application":"WebClient","Instance":"Web","AssociateId":41,"AssociateId":42}',
            {"set": {"AssociateId": 42}},
            FOR_42,
        ),
        (
            b'\xef\xbb\xbf {"Application" : "WebClient", "Instance":"Web"}',
            {"set": {"AssociateId": 42}},
            FOR_42,
        ),
        (b'{"Nonsense":{"a":[1]},' + FOR_42[1:], {"unset": {"Nonsense"}}, FOR_42),
        (
            b'{"Application":"","Instance":"Web","AssociateId":1}',
            {"set": {"Application": "W\u00e9b"}},
            b'{"Instance":"Web","AssociateId":1,"Application":"W\\u00e9b"}',
        ),
    ],
)
def test_properties_of_the_body_can_be_set_and_left_out(body, mending, published):
    assert mended(body, **mending).body == published


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"Nonsense":1}', "unknown-property"),
        (b'{"ForAllAssociates":true,"Application":"A","Instance":"I"}', "unexpected-associate"),
        (b'{"Instance":"I","Instance":"I","Application":"A"}', "duplicate-property"),
        (b'{"Application":{"a":1},"Instance":"I"}', "invalid-application"),
        (b"[]", "unreadable-body"),
        (b"{", "unreadable-body"),
        (b"\xff", "unreadable-body"),
        (b"[" * 50_000, "unreadable-body"),
        (b'{"AssociateId":' + b"4" * 5000 + b"}", "unreadable-body"),
    ],
)
def test_what_is_still_wrong_after_mending_is_refused(body, reason):
    assert mended(body, set={"AssociateId": 42}).reason == reason


@pytest.mark.parametrize("depth", [100, 600, 900, 1500, 10_000])
def test_however_deep_a_body_is_nested_it_is_refused_and_ends_nothing(depth):
    body = b'{"Nonsense":' + b'{"a":' * depth + b"1" + b"}" * (depth + 1)

    assert isinstance(mended(body, set={"AssociateId": 42}), Refusal)


def test_a_letter_whose_properties_would_outgrow_a_frame_is_refused():
    def with_header_of(size):
        return prepared(a_delivery(FOR_42, Basic.Properties(headers={"long": "x" * size})))

    around = len(with_header_of(0).properties)
    assert isinstance(with_header_of(LONGEST_PROPERTIES_BYTES - around), Replay)
    assert with_header_of(LONGEST_PROPERTIES_BYTES - around + 1).reason == "properties-too-large"


def test_a_command_gets_back_what_it_was_published_with_and_nothing_that_would_act_on_it():
    original = {
        "content_type": "application/json",
        "message_type": "ClearConfigurationCache",
        "app_id": "shop",
        "correlation_id": "order-7",
        "reply_to": "answers",
        "priority": 3,
        "timestamp": datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    }
    headers = {
        "traceparent": "00-1-2-01",
        "published-at": 1,
        "tenant": ["a", {"b": 1}],
        "CC": ["elsewhere"],
        "replayed": 1,
        "x-death": [{"count": 1}],
        "x-first-death-queue": "q",
        "x-delivery-count": 4,
        "original-x-death": [],
    }

    replay = prepared(
        a_letter(FOR_42, message_id="letter", **original, user_id="u", expiration="1", headers=headers)
    )

    properties = properties_of(replay)
    assert {name: getattr(properties, name) for name in original} == original
    assert (properties.message_id, properties.delivery_mode) == ("fresh", 2)
    assert (properties.user_id, properties.expiration) == (None, None)
    assert properties.headers == {
        "traceparent": "00-1-2-01",
        "published-at": 1,
        "tenant": ["a", {"b": 1}],
        "replayed": 2,
    }


def test_a_letter_that_came_back_three_times_is_refused_unless_more_are_allowed():
    letter = a_letter(FOR_42, headers={"replayed": 3})

    assert prepared(letter).reason == "replayed-often"
    assert properties_of(prepared(letter, max_replays=4)).headers == {"replayed": 4}


@pytest.mark.parametrize(
    "properties",
    [
        {"message_type": "Other"},
        {"content_type": "application/xml"},
        {"content_encoding": "gzip"},
    ],
)
def test_a_body_with_the_properties_of_something_else_is_replayed_only_as_a_command(properties):
    letter = a_letter(FOR_42, app_id="shop", **properties)

    assert isinstance(prepared(letter), Refusal)
    replayed = properties_of(prepared(letter, as_command=True))
    assert (replayed.message_type, replayed.content_type, replayed.content_encoding, replayed.app_id) == (
        "ClearConfigurationCache",
        "application/json",
        None,
        "shop",
    )


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_has_unreadable_properties_is_replayed_without_them_and_only_as_a_command(name):
    letter = a_delivery(FOR_42, UNREADABLE[name])

    refusal = prepared(letter)
    assert (refusal.reason, "--as-command" in refusal.detail) == ("unreadable-properties", True)
    assert properties_of(prepared(letter, as_command=True)).headers == {"replayed": 1}


def test_a_body_that_nobody_keeps_is_refused():
    assert prepared(a_delivery(size=5_000_000), as_command=True).reason == "body-too-large"


@given(
    st.binary(max_size=40) | st.from_regex(rb'\{"(Application|AssociateId|x)":[^}]{0,9}\}', fullmatch=True),
    st.booleans(),
)
def test_what_is_replayed_keeps_the_contract_whatever_the_letter(body, as_command):
    outcome = mended(body, set={"Application": "A", "Instance": "I"}, as_command=as_command)

    if isinstance(outcome, Replay):
        assert decode(outcome.body) == outcome.command
    else:
        with pytest.raises(ContractError):
            decode(body)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("AssociateId=42", ("AssociateId", 42)),
        ("ForAllAssociates=true", ("ForAllAssociates", True)),
        ("ForAllAssociates=false", ("ForAllAssociates", False)),
        ("Application=42", ("Application", "42")),
        ("Instance=a=b", ("Instance", "a=b")),
        ("Instance=", ("Instance", "")),
    ],
)
def test_a_setting_has_the_type_of_its_property(text, setting):
    assert parse_setting(text) == setting


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AssociateId", "Property=value"),
        ("AssociateId=forty", "whole number"),
        ("AssociateId=-1", "whole number"),
        ("AssociateId=" + "9" * 5000, "whole number"),
        ("ForAllAssociates=yes", "true or false"),
        ("ForAllAssociate=true", "did you mean ForAllAssociates?"),
        ("associateId=1", "did you mean AssociateId?"),
    ],
)
def test_a_setting_that_is_none_is_told_with_what_it_must_be(text, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        parse_setting(text)
