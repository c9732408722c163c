"""The contract for machines is current, valid, and judges as the code does; what was published once stays readable."""

from __future__ import annotations

import hashlib
import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configcache import ClearConfigurationCache, ContractError, Properties, decode, documents
from configcache_worker.__main__ import main
from tests.docs.documents import PROJECT

FOLDER = PROJECT / "docs" / "contract"
SAMPLES = sorted((FOLDER / "v1").glob("*.json"))
SCHEMA = json.loads((FOLDER / "clear-configuration-cache.v1.schema.json").read_text())
ASYNCAPI = json.loads((FOLDER / "asyncapi.json").read_text())
JUDGE = jsonschema.Draft202012Validator(SCHEMA)


@pytest.mark.parametrize(
    ("part", "file"),
    [("json-schema", "clear-configuration-cache.v1.schema.json"), ("asyncapi", "asyncapi.json")],
)
def test_the_checked_in_document_is_current(capsys, part, file):
    assert main(["contracts", part]) == 0

    current = capsys.readouterr().out
    assert (FOLDER / file).read_text() == current, f"run: configcache contracts {part} > docs/contract/{file}"


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator.check_schema(ASYNCAPI["components"]["schemas"]["ClearConfigurationCache"])


def test_every_example_of_the_documents_is_accepted():
    message = ASYNCAPI["components"]["messages"]["ClearConfigurationCache"]
    examples = [*SCHEMA["examples"], *(example["payload"] for example in message["examples"])]

    assert len(examples) == 2 * len(documents.EXAMPLES)
    for example in examples:
        JUDGE.validate(example)
        assert decode(json.dumps(example).encode())


# A schema's 42.0 is an integer, and a name that ends with a line break is beyond the judge's regular expressions.
NAMES = st.sampled_from(
    ["WebClient", "Größe", "a" * 254, "a b", "", " a", "a ", "\t", "a\u00a0", "a\u0085b", "a" * 255, None, 1]
)
ABSENT = object()


@given(
    application=st.one_of(NAMES, st.just(ABSENT)),
    instance=st.one_of(NAMES, st.just(ABSENT)),
    for_all=st.sampled_from([ABSENT, True, False, None, 0, 1, "true"]),
    associate=st.sampled_from([ABSENT, None, 1, 42, 2**63 - 1, 2**63, 0, -1, "1", 1.5, True]),
    more=st.sampled_from([{}, {}, {}, {"application": "WebClient"}, {"Item": "x"}]),
)
def test_the_schema_judges_as_the_worker_does(application, instance, for_all, associate, more):
    given = {
        "Application": application,
        "Instance": instance,
        "ForAllAssociates": for_all,
        "AssociateId": associate,
    }
    body = {name: value for name, value in given.items() if value is not ABSENT} | more
    try:
        decode(json.dumps(body).encode())
        is_accepted = True
    except ContractError:
        is_accepted = False

    assert JUDGE.is_valid(body) == is_accepted


def references(value):
    """Every ``$ref`` in *value*."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_reference_of_the_asyncapi_document_leads_somewhere():
    found = list(references(ASYNCAPI))

    assert len(found) == 5
    for reference in found:
        place = ASYNCAPI
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


# For ever


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_message_that_was_ever_valid_is_still_read_as_what_it_meant(sample):
    message = json.loads(sample.read_text())

    command = decode(message["body"].encode(), Properties(**message["properties"]))

    assert command == ClearConfigurationCache.model_validate(message["means"])


def test_no_sample_has_changed_or_gone():
    digest = hashlib.sha256(b"".join(sample.read_bytes() for sample in SAMPLES)).hexdigest()

    assert digest == "81b558e0d2f46471bfcd6603039617debd72efb7402cc7dc482f00e0487a767f", (
        "samples of a published version are for ever; new ones go into a new file, and in here"
    )
