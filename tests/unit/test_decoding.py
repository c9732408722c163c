"""What was decoded once is not decoded again, and means the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configcache.wire import COMMAND_PROPERTIES, ContractError, Properties, Reason, decode
from configcache_worker.core import decoding
from configcache_worker.core.decoding import Decoder
from configcache_worker.core.ports import Scope

GOOD = '{"Application":"WebClient","Instance":"Web","ForAllAssociates":false,"AssociateId":42}'

ALL = '{"Application":"WebClient","Instance":"Web","ForAllAssociates":true}'

numbers = st.one_of(
    st.integers(-3, 10**19).map(str),
    st.sampled_from(
        ["0", "00", "01", "1.0", "1e3", "-1", "9223372036854775807", "9223372036854775808", "1_0", "٣"]
    ),
    st.sampled_from(["", " ", "true", "null", '"1"']),
)
bodies = st.one_of(
    st.integers(0, len(GOOD)).map(lambda end: GOOD[:end]),
    st.just(ALL),
    st.builds(GOOD.replace, st.just("42"), numbers),
    st.builds((GOOD + " ").replace, st.just("42"), numbers),
    st.builds(GOOD.replace, st.just("42}"), st.sampled_from(["42]", "42", "42}}", "4 2}", "42 }"])),
    st.builds(GOOD.replace("false", "true").replace, st.just(',"AssociateId":42'), st.sampled_from(["", ',"X":1'])),
    st.builds(GOOD.replace, st.just('"Web"'), st.sampled_from(['"web"', '"W:1}"', r'"\"AssociateId\":1"', '""'])),
    st.builds(GOOD.replace, st.just('":42'), st.sampled_from(['": 7', '":\n7', '"7:7', '\\":7'])),
)  # fmt: skip


def outcome(decode_one, body, properties):
    try:
        return decode_one(body, properties)
    except ContractError as error:
        return (error.reason, error.detail)


def decode_anew(body, properties):
    command = decode(body, properties)
    return Scope(command.application, command.instance, command.associate_id)


@given(st.lists(st.tuples(bodies, st.sampled_from([COMMAND_PROPERTIES, Properties(type="X")])), max_size=12))
def test_whatever_was_decoded_before_a_message_means_what_it_means(messages):
    decoder = Decoder()

    for body, properties in messages * 2:
        raw = body.encode()
        assert outcome(decoder.scope, raw, properties) == outcome(decode_anew, raw, properties)


@pytest.fixture
def decoded(monkeypatch):
    """Bodies that were really decoded."""
    found = []
    monkeypatch.setattr(
        decoding, "decode", lambda body, properties: found.append(body) or decode(body, properties)
    )
    return found


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_messages_that_differ_in_the_number_are_decoded_once(decoded, separators):
    decoder = Decoder()
    bodies = [
        json.dumps(
            {"Application": "WebClient", "Instance": "Web", "AssociateId": number}, separators=separators
        )
        for number in (1, 42, 123_456_789)
    ]

    scopes = [decoder.scope(body.encode(), COMMAND_PROPERTIES) for body in bodies]

    assert [scope.associate_id for scope in scopes] == [1, 42, 123_456_789]
    assert len(decoded) == 1


def test_equal_messages_are_decoded_once(decoded):
    decoder = Decoder()

    scopes = {decoder.scope(ALL.encode(), COMMAND_PROPERTIES) for _ in range(3)}

    assert scopes == {Scope("WebClient", "Web", None)}
    assert len(decoded) == 1


def test_what_is_remembered_is_bounded(decoded):
    decoder = Decoder()

    for number in range(3 * decoding._REMEMBERED):
        decoder.scope(GOOD.replace("Web", f"Web{number}").encode(), COMMAND_PROPERTIES)
        decoder.scope(ALL.replace("Web", f"Web{number}").encode(), COMMAND_PROPERTIES)

    (memo,) = [memo for memo in decoder._memos.values() if memo.stems]
    assert len(memo.stems) <= decoding._REMEMBERED
    assert len(memo.bodies) <= decoding._REMEMBERED


@pytest.mark.parametrize("end", range(len(GOOD)))
def test_a_message_that_was_cut_short_is_not_taken_for_one_that_was_not(end):
    decoder = Decoder()
    decoder.scope(GOOD.encode(), COMMAND_PROPERTIES)

    with pytest.raises(ContractError):
        decoder.scope(GOOD[:end].encode(), COMMAND_PROPERTIES)


def test_messages_of_refused_kinds_make_nothing_be_forgotten(decoded):
    decoder = Decoder()
    decoder.scope(GOOD.encode(), COMMAND_PROPERTIES)

    for number in range(100):
        with pytest.raises(ContractError):
            decoder.scope(GOOD.encode(), Properties(content_type=f"text/{number}"))
    decoder.scope(GOOD.encode(), COMMAND_PROPERTIES)

    assert len(decoded) == 1 + 100


def test_a_refused_message_is_refused_again():
    decoder = Decoder()

    for _ in range(2):
        with pytest.raises(ContractError) as caught:
            decoder.scope(b"{", COMMAND_PROPERTIES)
        assert caught.value.reason is Reason.INVALID_JSON
