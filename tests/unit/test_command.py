from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configcache.command import ClearConfigurationCache
from configcache.errors import Reason


def violations(**properties):
    """The reasons for which the command cannot be constructed."""
    with pytest.raises(ValidationError) as caught:
        ClearConfigurationCache(**properties)
    return {error["type"]: error["msg"] for error in caught.value.errors()}


def test_is_constructed_by_python_names_and_by_the_contracts_names():
    by_python_names = ClearConfigurationCache(application="WebClient", instance="Web", associate_id=42)
    by_contract = ClearConfigurationCache(Application="WebClient", Instance="Web", AssociateId=42)

    assert by_python_names == by_contract
    assert hash(by_python_names) == hash(by_contract)


def test_for_all_and_for_associate_say_whose_rows_go():
    for_all = ClearConfigurationCache.for_all("WebClient", "Web")
    for_one = ClearConfigurationCache.for_associate("WebClient", "Web", 42)

    assert (for_all.for_all_associates, for_all.associate_id) == (True, None)
    assert (for_one.for_all_associates, for_one.associate_id) == (False, 42)


def test_cannot_be_changed():
    command = ClearConfigurationCache.for_all("WebClient", "Web")

    with pytest.raises(ValidationError, match="frozen"):
        command.application = "Other"


def test_names_every_violated_rule_at_once():
    found = violations(application=" x", for_all_associates=1, associate_id="42")

    assert set(found) == {
        Reason.INVALID_APPLICATION,
        Reason.MISSING_INSTANCE,
        Reason.INVALID_FOR_ALL_ASSOCIATES,
        Reason.INVALID_ASSOCIATE_ID,
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "blank"),
        ("   ", "blank"),
        ("\t", "blank"),
        (" x", "begin or end with white space"),
        ("x\u00a0", "begin or end with white space"),
        ("x\u2029", "begin or end with white space"),
        ("a\tb", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\x85b", "control characters"),
        ("a\x00b", "control characters"),
        ("a" * 255, "at most 254"),
        ("a\ud800b", "lone surrogates"),
        (b"WebClient", "a string"),
        (None, "a string"),
        (7, "a string"),
    ],
)
def test_says_what_is_wrong_with_a_name(name, words):
    assert words in violations(application=name, instance="Web", associate_id=1)[Reason.INVALID_APPLICATION]
    assert (
        words in violations(application="WebClient", instance=name, associate_id=1)[Reason.INVALID_INSTANCE]
    )


@pytest.mark.parametrize(
    "name", ["x", "a b", "%", "Ünïcödé", "💥" * 254, "a" * 254, "'; --", "\ufeffx", "\u200b"]
)
def test_accepts_any_other_text_as_a_name(name):
    assert ClearConfigurationCache.for_all(name, name).application == name


def test_the_pattern_agrees_with_python_on_every_white_space_and_control_character():
    special = [chr(point) for point in range(sys.maxunicode + 1) if chr(point).isspace()]
    special += [chr(point) for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)) == "Cc"]

    for character in special:
        assert violations(application=f"a{character}", instance="Web", associate_id=1)


@given(st.text(max_size=260))
def test_a_name_is_accepted_exactly_when_the_contract_says_so(name):
    allowed = (
        1 <= len(name) <= 254
        and name == name.strip()
        and not any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)
    )
    try:
        ClearConfigurationCache.for_all(name, "Web")
    except ValidationError:
        accepted = False
    else:
        accepted = True

    assert accepted == allowed


@pytest.mark.parametrize("value", [0, -1, 2**63, 10**400, 42.0, True, "42", float("nan")])
def test_refuses_what_is_no_associate_id(value):
    assert Reason.INVALID_ASSOCIATE_ID in violations(application="A", instance="B", associate_id=value)


@pytest.mark.parametrize("value", [1, 42, 2**53 + 1, 2**63 - 1])
def test_accepts_every_positive_bigint_as_associate_id(value):
    assert ClearConfigurationCache.for_associate("A", "B", value).associate_id == value


@pytest.mark.parametrize("value", [None, 0, 1, "true", "", []])
def test_for_all_associates_is_true_or_false_and_nothing_else(value):
    found = violations(application="A", instance="B", for_all_associates=value, associate_id=1)

    assert Reason.INVALID_FOR_ALL_ASSOCIATES in found


def test_for_all_associates_absent_means_false_and_so_needs_an_associate():
    found = violations(application="A", instance="B")

    assert "AssociateId must name the associate" in found[Reason.MISSING_ASSOCIATE]


def test_an_associate_beside_for_all_associates_is_a_contradiction():
    found = violations(application="A", instance="B", for_all_associates=True, associate_id=42)

    assert set(found) == {Reason.UNEXPECTED_ASSOCIATE}


def test_none_counts_as_no_associate():
    command = ClearConfigurationCache(
        application="A", instance="B", for_all_associates=True, associate_id=None
    )

    assert command == ClearConfigurationCache.for_all("A", "B")


def test_a_misspelt_property_is_an_error_that_names_the_right_one():
    found = violations(application="A", instance="B", ForAllAssociate=True, associate_id=1)

    assert (
        found[Reason.UNKNOWN_PROPERTY] == "unknown property ForAllAssociate, did you mean ForAllAssociates?"
    )


def test_can_be_validated_from_a_dictionary_and_from_itself():
    command = ClearConfigurationCache.model_validate({"Application": "A", "Instance": "B", "AssociateId": 7})

    assert ClearConfigurationCache.model_validate(command) is command


def test_what_is_no_object_at_all_is_a_validation_error():
    with pytest.raises(ValidationError):
        ClearConfigurationCache.model_validate(["A", "B"])


def test_describes_itself_as_a_json_schema_with_the_contracts_names():
    schema = ClearConfigurationCache.model_json_schema()

    assert list(schema["properties"]) == ["Application", "Instance", "ForAllAssociates", "AssociateId"]
    assert schema["required"] == ["Application", "Instance"]
    assert schema["additionalProperties"] is False
