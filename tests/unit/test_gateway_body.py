"""What a request's body says, content type by content type, and what is said to one that can't be read."""

from __future__ import annotations

import codecs
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configcache import ClearConfigurationCache
from configcache_worker.gateway.body import READERS
from configcache_worker.gateway.command import to_command
from configcache_worker.gateway.errors import Unserved
from tests.gateways import ADMINISTRATOR, ANYBODY, BODIES, JSON, SAMPLE

MERGE, PATCH = "application/merge-patch+json", "application/json-patch+json"
XML, FORM = "application/xml", "application/x-www-form-urlencoded"
EVERYBODY = ClearConfigurationCache.for_all("sed", "officia")
OWN = ClearConfigurationCache.for_associate("sed", "officia", 42)


def command(content_type, body, caller=ADMINISTRATOR):
    body = body if isinstance(body, bytes) else body.encode()
    return to_command(READERS[content_type](body), caller)


def problem(content_type, body):
    with pytest.raises(Unserved) as unserved:
        command(content_type, body)
    assert unserved.value.status == 400
    return unserved.value.message


def status(content_type, body):
    try:
        command(content_type, body, ANYBODY)
    except Unserved as unserved:
        return unserved.status
    return 204


def patch(*operations):
    return json.dumps(operations)


def put(name, value):
    return {"op": "add", "path": f"/{name}", "value": value}


# Every type


@pytest.mark.parametrize("content_type", BODIES)
def test_the_sample_is_read_in_every_content_type(content_type):
    assert command(content_type, BODIES[content_type]) == EVERYBODY


def test_every_content_type_has_a_sample():
    assert set(BODIES) == set(READERS)


@pytest.mark.parametrize("content_type", BODIES)
def test_a_byte_order_mark_is_ignored(content_type):
    assert command(content_type, codecs.BOM_UTF8 + BODIES[content_type]) == EVERYBODY


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, '{"Application":"sed","Instance":"officia"}'),
        (MERGE, '{"Application":"sed","Instance":"officia"}'),
        (PATCH, patch(put("Application", "sed"), put("Instance", "officia"))),
        (XML, "<r><Application>sed</Application><Instance>officia</Instance></r>"),
        (FORM, "Application=sed&Instance=officia"),
    ],
)
def test_without_for_all_associates_the_caller_is_meant(content_type, body):
    assert command(content_type, body) == OWN


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, '{"Application":"a","Instance":"b","Application":"c"}'),
        (MERGE, '{"Application":"a","Instance":"b","Application":null}'),
        (PATCH, '[{"op":"add","path":"/Application","path":"/Application","value":"a"}]'),
        (
            XML,
            "<r><Application>a</Application><Instance>b</Instance><x:Application xmlns:x='u'>c</x:Application></r>",
        ),
        (FORM, "Application=a&Instance=b&Application=c"),
    ],
)
def test_what_comes_twice_is_refused_by_name(content_type, body):
    assert "appears more than once" in problem(content_type, body)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, '{"Application":"a","Instance":"b","forAllAssociates":true}'),
        (PATCH, patch(put("Application", "a"), put("Instance", "b"), put("forAllAssociates", True))),
        (
            XML,
            "<r><Application>a</Application><Instance>b</Instance><forAllAssociates>1</forAllAssociates></r>",
        ),
        (FORM, "Application=a&Instance=b&forAllAssociates=true"),
    ],
)
def test_a_property_in_another_case_is_unknown_and_named(content_type, body):
    assert "unknown property forAllAssociates: there are Application, Instance, ForAll" in problem(
        content_type, body
    )


def test_the_associate_is_never_taken_from_the_body():
    text = problem(JSON, '{"Application":"a","Instance":"b","AssociateId":1}')

    assert text == "AssociateId is no property of a request: the associate is the one who calls"


def test_a_strange_name_is_not_repeated():
    assert "<script>" not in problem(JSON, '{"<script>":1}')


def test_all_that_is_wrong_with_the_values_is_told():
    assert problem(JSON, '{"Application":1}') == "Application must be a string; Instance is required"


@pytest.mark.parametrize("name", ["", " ", " WebClient", "Web\tClient", "W" * 255])
def test_names_follow_the_contract(name):
    assert problem(JSON, json.dumps({"Application": name, "Instance": "Web"})).startswith("Application must ")


def test_who_may_not_clear_for_all_is_refused_only_then():
    assert command(JSON, '{"Application":"sed","Instance":"officia"}', ANYBODY).associate_id == 7

    with pytest.raises(Unserved) as unserved:
        command(JSON, SAMPLE, ANYBODY)
    assert (unserved.value.status, unserved.value.error_type) == (403, "SoSentryException")


# JSON


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"Application":"a",', "not JSON: Expecting property name enclosed in double quotes at line 1, column 20"),
        ('{\n"Application": a}', "at line 2, column 16"),
        (SAMPLE + b"x", "Extra data"),
        (b'{"Application":"\xe9"}', "not UTF-8"),
        ('{"Application":NaN}', "NaN is no JSON value"),
        ("[" * 30_000, "nested too deeply"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ("9" * 5_000, "must be an object"),
        ('{"Application":"a","Instance":"b","ForAllAssociates":"true"}', "ForAllAssociates must be true or false"),
        ('{"Application":"a","Instance":"b","ForAllAssociates":1}', "ForAllAssociates must be true or false"),
        ('{"Application":"a","Instance":"b","ForAllAssociates":null}', "ForAllAssociates must be true or false"),
        ('{"Application":null,"Instance":"b"}', "Application must be a string"),
        ('{"Application":"\\ud800","Instance":"b"}', "surrogates"),
    ],
)  # fmt: skip
def test_json_that_is_no_request_is_told_what_and_where(body, words):
    assert words in problem(JSON, body)


# Patches


def test_a_merge_patch_removes_what_is_null():
    assert command(MERGE, '{"Application":"sed","Instance":"officia","ForAllAssociates":null}') == OWN


@pytest.mark.parametrize(
    "operations",
    [
        [
            put("Application", "sed"),
            put("Instance", "x"),
            {"op": "replace", "path": "/Instance", "value": "officia"},
        ],
        [put("Instance", "officia"), {"op": "add", "path": "/Application", "value": "sed", "more": 1}],
        [{"op": "replace", "path": "", "value": {"Application": "sed", "Instance": "officia"}}],
        [put("x", {"y": "sed"}), {"op": "move", "from": "/x/y", "path": "/Application"}, put("Instance", "officia"),
         {"op": "remove", "path": "/x"}],
        [put("Application", "sed"), {"op": "test", "path": "/Application", "value": "sed"}, put("Instance", "officia")],
    ],
)  # fmt: skip
def test_operations_are_applied_in_their_order(operations):
    assert command(PATCH, patch(*operations)) == OWN


@pytest.mark.parametrize(
    ("operations", "words"),
    [
        ([{"op": "test", "path": "/Application", "value": "sed"}], "operation 1 tests for what is not so"),
        ([put("Application", "a"), {"op": "remove", "path": "/Instance"}], "operation 2 can't be applied"),
        ([{"op": "invent", "path": "/a", "value": 1}], "operation 1 can't be applied"),
        ([{"op": "add", "path": 3, "value": 1}], "operation 1 can't be applied"),
        ([{"op": "add", "path": "Application", "value": 1}], "operation 1 can't be applied"),
        ([{"path": "/a"}], "operation 1 can't be applied"),
        (["add"], "operation 1 is not an object"),
        ([put(f"p{n}", n) for n in range(33)], "more than 32 operations"),
        ([put("a", list(range(64)))], "operation 1 has a value that is too large"),
        ([{"op": "replace", "path": "", "value": []}], "the request must be an object"),
    ],
)
def test_operations_that_make_no_request_are_told_by_number(operations, words):
    assert words in problem(PATCH, patch(*operations))


def test_a_patch_that_copies_the_whole_into_itself_does_not_grow_without_bound():
    operations = [{"op": "copy", "from": "", "path": f"/p{n}"} for n in range(32)]

    assert "makes the request too large" in problem(PATCH, patch(*operations))


def test_a_patch_is_a_list():
    assert "must be a list of operations" in problem(PATCH, "{}")


# XML


@pytest.mark.parametrize(
    "body",
    [
        '<q:r xmlns:q="urn:u" a="1"><q:Application b="2">sed</q:Application><q:Instance>officia</q:Instance></q:r>',
        '<r xmlns="urn:u">\n  <Application>sed</Application>\n  <Instance>officia</Instance>\n</r>\n',
        "\ufeff<r><Application>sed</Application><Instance>officia</Instance></r>",
        '<?xml version="1.0" encoding="utf-16"?><r><Application>sed</Application><Instance>officia</Instance></r>',
        '<?xml version="1.0" encoding="utf-16"?><r><Application>sed</Application><Instance>officia</Instance></r>'
        "".encode("utf-16"),
        "<r><!-- c --><?p i?><Application>s<!-- c -->e<![CDATA[d]]></Application><Instance>&#111;fficia</Instance></r>",
        "<r><ForAllAssociates> False </ForAllAssociates><Instance>officia</Instance><Application>sed</Application></r>",
    ],
)
def test_namespaces_attributes_marks_and_white_space_between_elements_do_not_matter(body):
    assert command(XML, body) == OWN


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<r>", "not XML: no element found at line 1, column 4"),
        ("<r><a></r>", "mismatched tag"),
        ("<r><p:a/></r>", "unbound prefix"),
        ("<r>&amp</r>", "not well-formed"),
        ("<r>&lol;</r>", "undefined entity"),
        (b"<r><Application>\xe9</Application></r>", "not well-formed"),
        ("<r>text</r>", "text beside the elements"),
        ("<r><Application><b/></Application></r>", "property Application must have text in its element"),
        ("<r><Application> sed</Application><Instance>b</Instance></r>", "must not begin or end with white space"),
        ("<r/>", "Application is required; Instance is required"),
        ("<r><Application/><Instance>b</Instance></r>", "Application must not be blank"),
        ("<r><ForAllAssociates>yes</ForAllAssociates></r>", "ForAllAssociates must be true, false, 1 or 0"),
        ("<r><ForAllAssociates/></r>", "ForAllAssociates must be true, false, 1 or 0"),
    ],
)  # fmt: skip
def test_xml_that_is_no_request_is_told_what_and_where(body, words):
    assert words in problem(XML, body)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-8", "iso-8859-1", "big5", "utf-7", "idna", "hex", "nonsense"]
)
@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE], ids=["little", "big"])
def test_the_mark_counts_and_not_the_encoding_that_xml_claims(encoding, mark):
    text = f'<?xml version="1.0" encoding="{encoding}"?><r><Application>sed</Application><Instance>officia</Instance></r>'
    order = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-16-be"

    assert command(XML, mark + text.encode(order)) == OWN


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 20))


@pytest.mark.parametrize(
    "body",
    [
        "<!DOCTYPE r><r/>",
        '<!DOCTYPE r SYSTEM "file:///etc/passwd"><r/>',
        '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r><Application>&e;</Application></r>',
        f'<!DOCTYPE r [<!ENTITY l0 "ha">{LAUGHS}]><r><Application>&l19;</Application></r>',
    ],
)
def test_a_document_type_is_refused_before_anything_in_it_is_read(body):
    assert "document type declaration" in problem(XML, body)


def test_xml_is_refused_at_its_third_level_however_deep_it_is():
    assert "must have text in its element" in problem(XML, "<a>" * 20_000)


# Forms


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "+true+"])
def test_truth_in_a_form_is_a_word_in_any_case(word):
    assert command(FORM, f"Application=sed&Instance=officia&ForAllAssociates={word}") == EVERYBODY


def test_a_form_is_percent_encoded_utf_8():
    found = command(FORM, "Application=s%C3%A9d+1&Instance=%26")

    assert (found.application, found.instance) == ("séd 1", "&")


@pytest.mark.parametrize(
    "body", ["Application", "&", "Application=%ff", b"Application=\xff", "a=1&" * 20 + "b=2"]
)
def test_what_is_no_form_is_refused(body):
    assert "the body is no form" in problem(FORM, body)


# Anything at all


@st.composite
def damaged(draw, body):
    """*body*, with pieces of it changed, doubled, cut out, or from elsewhere."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    content = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at, end = sorted(rng.randint(0, len(content)) for _ in range(2))
        piece = rng.choice([b"", content[at:end] * 2, b"null", b"<", b"&", b'"', b"{}", rng.randbytes(3)])
        content[at:end] = piece
    return bytes(content)


@pytest.mark.parametrize("content_type", READERS)
def test_any_bytes_are_a_command_or_a_client_error(content_type):
    @settings(max_examples=80, deadline=None, derandomize=True, database=None)
    @given(st.one_of(damaged(BODIES[content_type]), st.binary(max_size=60)))
    def holds(body):
        assert status(content_type, body) in {204, 400, 403}

    holds()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "sed", "/", "/Application", "-"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Application", "a", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)
POINTERS = st.sampled_from(
    ["", "/", "/Application", "/Instance", "/a/b", "/-", "/0", "/Application/-", "/~2"]
)
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]) | VALUES},
    optional={"path": POINTERS | VALUES, "from": POINTERS | VALUES, "value": VALUES},
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(OPERATIONS | VALUES, max_size=5))
def test_any_operations_are_a_command_or_a_client_error(operations):
    assert status(PATCH, json.dumps(operations)) in {204, 400}
