"""What a dead letter tells, whatever it is made of."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic

from configcache.errors import Reason
from configcache_worker.letters.advice import advise
from configcache_worker.letters.bounds import MOST_LOOKED_AT
from configcache_worker.letters.letter import read_letter
from configcache_worker.letters.selection import Selection, group, summarize
from configcache_worker.rabbitmq.letter_box import MOST_HELD
from configcache_worker.rabbitmq.reading import Envelope, read
from configcache_worker.rabbitmq.values import read_properties
from tests.letters import (
    APP_ID,
    FOR_42,
    HEADERS,
    NO_ASSOCIATE,
    NOW_MS,
    UNREADABLE,
    a_delivery,
    a_letter,
    header_of,
    nested,
    raw,
    table,
)
from tests.raw import short

DIED = {
    "count": 3,
    "reason": "delivery_limit",
    "queue": "clear-configuration-cache.v1",
    "exchange": "configuration",
    "routing-keys": ["clear-configuration-cache.v1"],
}


def of(body=b"", **properties):
    return read_letter(a_delivery(body, Basic.Properties(**properties)))


def test_a_letter_of_a_worker_tells_all_that_was_written_on_it():
    letter = read_letter(
        a_letter(
            message_id="the-letters-own",
            detail="no associate",
            app_id="shop",
            headers={"published-at": NOW_MS - 5, "replayed": 2},
        )
    )

    assert letter.id == "the-letters-own"
    assert (letter.reason, letter.detail, letter.producer) == ("missing-associate", "no associate", "shop")
    assert (letter.published_at_ms, letter.dead_lettered_at_ms) == (NOW_MS - 5, NOW_MS)
    assert (letter.exchange, letter.routing_key) == ("configuration", "clear-configuration-cache.v1")
    assert (letter.replayed, letter.body, letter.body_bytes) == (2, NO_ASSOCIATE, len(NO_ASSOCIATE))
    assert letter.is_readable
    assert letter.deaths == []


@pytest.mark.parametrize(
    ("word", "reason", "detail"),
    [
        ("rejected", "unreadable-properties", "no room"),
        ("delivery_limit", "delivery_limit", "more often"),
        ("expired", "expired", "waited longer"),
        ("maxlen", "maxlen", "longer than a policy"),
        ("something_new", "something_new", ""),
    ],
)
def test_without_our_header_the_broker_says_the_reason(word, reason, detail):
    letter = of(headers={"x-death": [{**DIED, "reason": word}, {**DIED, "reason": "expired"}]})

    assert letter.reason == reason
    assert detail in (letter.detail or "")
    assert [(death.reason, death.queue, death.times) for death in letter.deaths] == [
        (word, "clear-configuration-cache.v1", 3),
        ("expired", "clear-configuration-cache.v1", 3),
    ]


def test_an_imported_letter_is_known_by_what_its_death_was_renamed_to():
    assert of(headers={"original-x-death": [DIED]}).reason == "delivery_limit"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"dead-letter-reason": "\x1b[2J"},
        {"dead-letter-reason": 7, "x-death": "no list"},
        {"x-death": ["no table"]},
        {"x-death": [{"reason": "<script>", "count": "many", "time": "never"}]},
    ],
)
def test_who_lies_about_the_reason_has_none(headers):
    assert of(headers=headers).reason == "unknown"


@pytest.mark.parametrize(
    ("properties", "producer"),
    [
        ({"app_id": "shop", "user_id": "guest"}, "shop"),
        ({"app_id": " ", "user_id": "guest"}, "guest"),
        ({"headers": {"original-user-id": "somebody"}}, "somebody"),
        ({}, "unknown"),
    ],
)
def test_the_producer_is_the_service_or_else_the_user(properties, producer):
    assert of(**properties).producer == producer


@pytest.mark.parametrize("name", UNREADABLE)
def test_properties_that_no_library_decodes_are_told_as_far_as_they_can_be(name):
    letter = read_letter(a_delivery(FOR_42, UNREADABLE[name]))

    assert not letter.is_readable
    assert letter.body == FOR_42
    assert letter.detail


def test_what_can_be_read_beside_what_can_not_is_shown():
    properties = raw(
        HEADERS | APP_ID,
        table(
            short(b"text")
            + b"S"
            + table(b"\xffa")
            + short(b"at")
            + b"T"
            + b"\x7f" * 8
            + short(b"n")
            + b"b\xff"
        )
        + short(b"shop"),
    )

    letter = read_letter(a_delivery(FOR_42, properties))

    assert letter.producer == "shop"
    assert letter.headers == {"text": "\\xffa", "at": 0x7F7F_7F7F_7F7F_7F7F, "n": -1}


def test_every_type_of_amqp_has_a_value():
    fields = b"".join(
        short(name) + value
        for name, value in [
            (b"yes", b"t\1"),
            (b"octet", b"B\xff"),
            (b"short", b"s\xff\xff"),
            (b"long", b"l" + struct.pack(">q", -7)),
            (b"double", b"d" + struct.pack(">d", 1.5)),
            (b"infinite", b"d" + struct.pack(">d", float("inf"))),
            (b"decimal", b"D\2" + struct.pack(">i", -1234)),
            (b"bytes", b"x" + table(b"\0\xff")),
            (b"nothing", b"V"),
            (b"list", b"A" + table(b"t\0" + b"S" + table(b"a"))),
            (b"table", b"F" + table(short(b"k") + b"b\1")),
        ]
    )

    properties = read_properties(header_of(b"", raw(HEADERS, table(fields)).marshal()))

    assert properties["headers"] == {
        "yes": True,
        "octet": 255,
        "short": -1,
        "long": -7,
        "double": 1.5,
        "infinite": "inf",
        "decimal": "-12.34",
        "bytes": "\0\\xff",
        "nothing": None,
        "list": [False, "a"],
        "table": {"k": 1},
    }


def test_what_is_nested_without_an_end_is_not_followed():
    assert "(cannot be read)" in str(read_properties(header_of(b"", raw(HEADERS, nested(10_000)).marshal())))


def test_a_body_that_nobody_keeps_is_told_by_its_size():
    letter = read_letter(a_delivery(size=5_000_000, properties=Basic.Properties(headers={"x-death": [DIED]})))

    assert (letter.body, letter.body_bytes) == (None, 5_000_000)
    assert "5,000,000" in letter.detail


@pytest.mark.parametrize("message_id", [None, "", " ", "-rf", "two words", "\x1b[2J", "\u202eid"])
def test_an_id_that_cannot_be_typed_is_replaced_by_one_that_can_and_stays(message_id):
    first = of(b"x", message_id=message_id, headers={"k": "v"})
    looked_at_again = of(b"x", message_id=message_id, headers={"k": "v", "x-delivery-count": 7})
    other = of(b"y", message_id=message_id, headers={"k": "v"})

    assert first.id.isalnum()
    assert first.id == looked_at_again.id != other.id


@pytest.mark.parametrize(("said", "taken"), [(-1, 0), ("3", 0), (True, 0), (2**62, 1_000_000), (4, 4)])
def test_a_count_of_replays_is_not_trusted(said, taken):
    assert of(headers={"replayed": said}).replayed == taken


@given(st.binary(max_size=120), st.binary(max_size=20))
def test_whatever_the_properties_a_letter_can_be_read(properties, body):
    envelope = Envelope(False, b"\xff", b"\xfe", header_of(body, properties + b"\0\0"))

    letter = read_letter(read(1, envelope, body))

    assert letter.body == body
    assert letter.id


def test_a_selection_takes_what_fits_all_of_it():
    letter = read_letter(a_letter(message_id="one", app_id="shop"))

    assert Selection().includes(letter)
    assert Selection(frozenset({"one", "two"}), "missing-associate", "shop").includes(letter)
    assert not Selection(frozenset({"two"})).includes(letter)
    assert not Selection(reason="invalid-json").includes(letter)
    assert not Selection(producer="other").includes(letter)


def test_groups_count_letters_of_a_reason_and_a_producer_and_tell_first_and_last():
    letters = [
        a_letter(message_id="a", now_ms=NOW_MS + 5, app_id="shop"),
        a_letter(b"{", Reason.INVALID_JSON, message_id="b", app_id="shop"),
        a_letter(message_id="c", now_ms=NOW_MS, app_id="shop"),
        a_delivery(b"x"),
    ]

    groups = group(summarize(read_letter(letter)) for letter in letters)

    assert groups[:2] == [
        ("missing-associate", "shop", 2, NOW_MS, NOW_MS + 5, "a"),
        ("invalid-json", "shop", 1, NOW_MS, NOW_MS, "b"),
    ]
    assert groups[2][:5] == ("unknown", "unknown", 1, None, None)


def test_no_more_can_be_asked_for_than_a_box_can_hold():
    assert MOST_LOOKED_AT == MOST_HELD


@pytest.mark.parametrize("reason", [*Reason, "delivery_limit"])
def test_there_is_advice_for_every_reason_and_it_can_be_typed(reason):
    letter = of(headers={"dead-letter-reason": str(reason)}, message_id="one")
    other = of(headers={"dead-letter-reason": "another"}, message_id="one")

    assert advise(letter) != advise(other)
    assert re.search(r"configcache dead-letters (replay|discard) one\b", advise(letter))


@pytest.mark.parametrize("moment", [-1, 1 << 62, "now", None])
def test_a_moment_that_is_none_is_not_told(moment):
    letter = of(headers={"published-at": moment, "dead-lettered-at": moment})

    assert (letter.published_at_ms, letter.dead_lettered_at_ms) == (None, None)


def test_a_producer_is_named_as_it_can_be_typed():
    letter = of(app_id="\x1b[2Jshop")

    assert letter.producer == "\\x1b[2Jshop"
    assert Selection(producer="\\x1b[2Jshop").includes(letter)
