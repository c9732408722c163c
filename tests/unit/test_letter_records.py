"""Dead letters as lines of JSON, there and back."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from configcache_worker.letters.letter import read_letter
from configcache_worker.letters.moving import parse
from configcache_worker.letters.records import FORMAT, NotALetter, from_line, record, to_line
from configcache_worker.rabbitmq.copies import encode_imported
from tests.letters import FOR_42, NOW_MS, UNREADABLE, a_delivery, a_letter
from tests.raw import RawProperties


def properties_of(encoded):
    content = ContentHeader()
    content.unmarshal(bytes(12) + encoded)
    return content.properties


def test_a_record_says_what_a_reader_wants_to_know():
    found = record(read_letter(a_letter(FOR_42, message_id="one", app_id="shop", headers={"k": "v"})))

    assert found["format"] == FORMAT
    assert (found["id"], found["reason"], found["producer"]) == ("one", "missing-associate", "shop")
    assert (found["body"], found["body_bytes"]) == (FOR_42.decode(), len(FOR_42))
    assert found["dead_lettered_at_ms"] == NOW_MS
    assert found["headers"]["k"] == "v"
    assert found["properties"]["app_id"] == "shop"


@given(st.binary(max_size=60))
def test_any_body_comes_back_as_it_was(body):
    assert from_line(to_line(read_letter(a_delivery(body))).encode()).body == body


@pytest.mark.parametrize("name", UNREADABLE)
def test_any_properties_come_back_as_they_were(name):
    delivery = a_delivery(FOR_42, UNREADABLE[name])

    back = from_line(to_line(read_letter(delivery)).encode())

    assert back.header[12:] == delivery.envelope.header[12:]


def test_a_line_has_no_character_that_a_terminal_would_obey():
    line = to_line(
        read_letter(a_letter("\x1b[2J\x7f\u202e\x9b".encode(), app_id="\x1b]0;", headers={"\x07": "\x85"}))
    )

    assert line.isascii()
    assert line.isprintable()


def test_a_body_that_was_edited_is_taken_as_it_is():
    line = to_line(read_letter(a_letter(b"old"))).replace('"body": "old"', '"body": "new"')

    assert from_line(line.encode()).body == b"new"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has no .format"),
        (b'{"body":""}', "has no .format"),
        (json.dumps({"format": FORMAT}).encode(), "neither"),
        (json.dumps({"format": FORMAT, "body": None}).encode(), "neither"),
        (json.dumps({"format": FORMAT, "body": "\ud800"}).encode(), "no text"),
        (json.dumps({"format": FORMAT, "body_base64": "?"}).encode(), "body_base64"),
        (json.dumps({"format": FORMAT, "body": ""}).encode(), "encoded_properties"),
        (json.dumps({"format": FORMAT, "body": "", "encoded_properties": 7}).encode(), "encoded_properties"),
    ],
)
def test_a_line_that_is_no_letter_is_told_why(line, said):
    with pytest.raises(NotALetter, match=said):
        from_line(line)


def test_an_imported_letter_keeps_its_id_and_moves_what_would_act_on_it():
    letter = read_letter(
        a_delivery(
            b"{",
            Basic.Properties(
                message_id="the-producers",
                user_id="somebody",
                expiration="1000",
                app_id="shop",
                headers={"CC": ["a"], "k": "v", "x-death": [{"reason": "rejected"}], "x-delivery-count": 3},
            ),
        )
    )

    message_id, encoded = encode_imported(letter.header, id_otherwise="other")

    properties = properties_of(encoded)
    assert (message_id, properties.message_id, properties.app_id) == ("the-producers",) * 2 + ("shop",)
    assert (properties.user_id, properties.expiration, properties.delivery_mode) == (None, None, 2)
    assert properties.headers == {
        "k": "v",
        "original-CC": ["a"],
        "original-x-death": [{"reason": "rejected"}],
        "original-user-id": "somebody",
        "original-expiration": "1000",
    }


@pytest.mark.parametrize("message_id", ["", None, "two words", "\x1b[2J"])
def test_an_imported_letter_is_known_by_the_id_it_had_before(message_id):
    properties = Basic.Properties(message_id=message_id, headers={"x-death": [{"reason": "rejected"}]})
    exported = read_letter(a_delivery(b"{", properties))

    (copy,) = parse(io.BytesIO(to_line(exported).encode()))

    imported = read_letter(a_delivery(copy.body, RawProperties(copy.properties)))
    assert imported.id == exported.id == copy.message_id
    assert imported.headers.get("original-message-id") == (message_id or None)


@pytest.mark.parametrize("id_", [None, 7, "", "two words", "i" * 256, "\ud800"])
def test_a_line_whose_id_is_none_gives_a_letter_with_a_new_one(id_):
    line = json.loads(to_line(read_letter(a_delivery(b"{")))) | {"id": id_}

    (copy,) = parse(io.BytesIO(json.dumps(line).encode()))

    assert len(copy.message_id) == 32
