from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configcache import wire
from configcache.command import ClearConfigurationCache
from configcache.wire import COMMAND_PROPERTIES, MAX_BODY_BYTES, ContractError, Properties, Reason

GOOD = b'{"Application":"WebClient","Instance":"Web","ForAllAssociates":false,"AssociateId":42}'


def error_of(body: bytes, properties: Properties = COMMAND_PROPERTIES) -> ContractError:
    with pytest.raises(ContractError) as caught:
        wire.decode(body, properties)
    return caught.value


def body_of(**properties) -> bytes:
    return json.dumps({"Application": "A", "Instance": "B"} | properties).encode()


def shortened(value: object) -> str:
    """A readable test id, whatever the size of the parameter."""
    text = str(value)
    return text if len(text) < 400 else f"{text[:40]}... of {len(text)} characters"


# Good messages


@pytest.mark.parametrize(
    ("body", "command"),
    [
        (GOOD, ClearConfigurationCache.for_associate("WebClient", "Web", 42)),
        (
            b' {\n "ForAllAssociates" : true, "Instance":"B","Application" :"A"} ',
            ClearConfigurationCache.for_all("A", "B"),
        ),
        (
            b'{"Application":"A","Instance":"B","AssociateId":7}',
            ClearConfigurationCache.for_associate("A", "B", 7),
        ),
        (
            b'{"Application":"A","Instance":"B","ForAllAssociates":true,"AssociateId":null}',
            ClearConfigurationCache.for_all("A", "B"),
        ),
        (
            b'{"Appl\\u0069cation":"\\"\\u00e9\\ud83d\\ude00","Instance":"%","AssociateId":9223372036854775807}',
            ClearConfigurationCache.for_associate('"é😀', "%", 2**63 - 1),
        ),
    ],
)
def test_reads_a_command(body, command):
    assert wire.decode(body) == command


@pytest.mark.parametrize(
    "properties",
    [
        Properties(),
        COMMAND_PROPERTIES,
        Properties(content_type="APPLICATION/Json"),
        Properties(content_type="application/json;charset=UTF-8"),
        Properties(content_type='application/json ; profile="a;charset=latin-1" ; Charset="utf-8"'),
        Properties(content_encoding="utf-8"),
        Properties(content_encoding="UTF-8"),
        Properties(content_encoding="Identity"),
        Properties(type="ClearConfigurationCache"),
    ],
)
def test_accepts_the_properties_that_the_contract_allows(properties):
    assert wire.decode(GOOD, properties).associate_id == 42


def test_writes_compact_json_with_for_all_associates_always_and_the_associate_only_where_there_is_one():
    assert wire.encode(ClearConfigurationCache.for_associate("WebClient", "Web", 42)) == GOOD
    assert (
        wire.encode(ClearConfigurationCache.for_all("Ä", "B"))
        == '{"Application":"Ä","Instance":"B","ForAllAssociates":true}'.encode()
    )


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=254).filter(
    lambda name: name == name.strip()
)
COMMANDS = st.one_of(
    st.builds(ClearConfigurationCache.for_all, NAMES, NAMES),
    st.builds(ClearConfigurationCache.for_associate, NAMES, NAMES, st.integers(1, 2**63 - 1)),
)


@given(COMMANDS)
def test_every_command_comes_back_as_it_was_written(command):
    assert wire.decode(wire.encode(command), COMMAND_PROPERTIES) == command


# Bad messages


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        (Properties(type="clearconfigurationcache"), Reason.WRONG_MESSAGE_TYPE),
        (Properties(type=""), Reason.WRONG_MESSAGE_TYPE),
        (Properties(content_type="text/json"), Reason.UNSUPPORTED_CONTENT_TYPE),
        (Properties(content_type=""), Reason.UNSUPPORTED_CONTENT_TYPE),
        (Properties(content_type="application/json; charset=iso-8859-1"), Reason.UNSUPPORTED_CONTENT_TYPE),
        (
            Properties(content_type="application/json; charset=utf-8; charset=x"),
            Reason.UNSUPPORTED_CONTENT_TYPE,
        ),
        (Properties(content_type="application/json;charset="), Reason.UNSUPPORTED_CONTENT_TYPE),
        (Properties(content_encoding="gzip"), Reason.UNSUPPORTED_CONTENT_ENCODING),
        (Properties(content_encoding=""), Reason.UNSUPPORTED_CONTENT_ENCODING),
    ],
)
def test_refuses_other_properties(properties, reason):
    assert error_of(GOOD, properties).reason is reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xef\xbb\xbf" + GOOD, Reason.INVALID_UTF_8),
        ('{"Application":"é"}'.encode("latin-1"), Reason.INVALID_UTF_8),
        (GOOD.decode().encode("utf-16"), Reason.INVALID_UTF_8),
        (GOOD.decode().encode("utf-16-le"), Reason.INVALID_JSON),
        (b"", Reason.INVALID_JSON),
        (b"{", Reason.INVALID_JSON),
        (GOOD + b"x", Reason.INVALID_JSON),
        (GOOD + GOOD, Reason.INVALID_JSON),
        (GOOD.replace(b"42", b"NaN"), Reason.INVALID_JSON),
        (GOOD.replace(b"42", b"-Infinity"), Reason.INVALID_JSON),
        (GOOD.replace(b"Web", b"We\nb"), Reason.INVALID_JSON),
        (b"[" * 60_000, Reason.INVALID_JSON),
        (b'{"a":' * 10_000, Reason.INVALID_JSON),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (b'"{}"', Reason.NOT_AN_OBJECT),
        (b"9" * 6_000, Reason.NOT_AN_OBJECT),
        (GOOD.replace(b'"Instance"', b'"Application"'), Reason.DUPLICATE_PROPERTY),
        (GOOD.replace(b"{", b'{"Application":"WebClient",'), Reason.DUPLICATE_PROPERTY),
        (GOOD.replace(b"{", b'{"Appl\\u0069cation":"WebClient",'), Reason.DUPLICATE_PROPERTY),
        (GOOD.replace(b"{", b'{"AssociateId":null,'), Reason.DUPLICATE_PROPERTY),
        (GOOD.replace(b"{", b'{"x":1,"x":1,'), Reason.DUPLICATE_PROPERTY),
        (GOOD.replace(b"{", b'{"x":{"y":1,"y":2},'), Reason.UNKNOWN_PROPERTY),
        (GOOD.replace(b"Application", b"application"), Reason.UNKNOWN_PROPERTY),
        (GOOD.replace(b"AssociateId", b"associate_id"), Reason.UNKNOWN_PROPERTY),
        (GOOD.replace(b"{", b'{"\\ud800":1,'), Reason.UNKNOWN_PROPERTY),
        (b"{}", Reason.MISSING_APPLICATION),
        (b'{"Application":"A"}', Reason.MISSING_INSTANCE),
        (body_of(Application=" "), Reason.INVALID_APPLICATION),
        (body_of(Application=None), Reason.INVALID_APPLICATION),
        (body_of(Application={"Application": 1}), Reason.INVALID_APPLICATION),
        (body_of(Instance="a\nb"), Reason.INVALID_INSTANCE),
        (body_of(Instance="\ud800"), Reason.INVALID_INSTANCE),
        (body_of(Instance="x" * 255), Reason.INVALID_INSTANCE),
        (body_of(ForAllAssociates=None), Reason.INVALID_FOR_ALL_ASSOCIATES),
        (body_of(ForAllAssociates="true"), Reason.INVALID_FOR_ALL_ASSOCIATES),
        (body_of(ForAllAssociates=1), Reason.INVALID_FOR_ALL_ASSOCIATES),
        (body_of(AssociateId=42.0), Reason.INVALID_ASSOCIATE_ID),
        (body_of(AssociateId=True), Reason.INVALID_ASSOCIATE_ID),
        (body_of(AssociateId="42"), Reason.INVALID_ASSOCIATE_ID),
        (body_of(AssociateId=0), Reason.INVALID_ASSOCIATE_ID),
        (body_of(AssociateId=2**63), Reason.INVALID_ASSOCIATE_ID),
        (GOOD.replace(b"42", b"4e1"), Reason.INVALID_ASSOCIATE_ID),
        (GOOD.replace(b"42", b"1" * 6_000), Reason.INVALID_ASSOCIATE_ID),
        (GOOD.replace(b"42", b"1e999"), Reason.INVALID_ASSOCIATE_ID),
        (body_of(), Reason.MISSING_ASSOCIATE),
        (body_of(ForAllAssociates=False, AssociateId=None), Reason.MISSING_ASSOCIATE),
        (body_of(ForAllAssociates=True, AssociateId=42), Reason.UNEXPECTED_ASSOCIATE),
    ],
    ids=shortened,
)
def test_names_the_rule_that_a_body_breaks(body, reason):
    error = error_of(body)

    assert error.reason is reason
    assert str(error) == error.detail


def test_a_body_of_64_kib_is_read_and_a_longer_one_is_not():
    padded = GOOD + b" " * (MAX_BODY_BYTES - len(GOOD))

    assert wire.decode(padded).associate_id == 42
    assert error_of(padded + b" ").reason is Reason.BODY_TOO_LARGE


def test_the_first_reason_of_the_list_wins():
    everything_wrong = b'{"Application":"","Application":"","x":1' + b" " * MAX_BODY_BYTES

    assert error_of(everything_wrong, Properties("x", "x", "x")).reason is Reason.WRONG_MESSAGE_TYPE
    assert error_of(everything_wrong, Properties("x", "x")).reason is Reason.UNSUPPORTED_CONTENT_TYPE
    assert error_of(everything_wrong).reason is Reason.BODY_TOO_LARGE
    assert error_of(b'{"Application":"","Application":"","x":1}').reason is Reason.DUPLICATE_PROPERTY
    assert error_of(b'{"Application":"","x":1}').reason is Reason.UNKNOWN_PROPERTY
    assert error_of(b'{"AssociateId":"","Instance":"","Application":""}').reason is Reason.INVALID_APPLICATION


def test_a_misspelt_property_is_named_together_with_the_one_that_was_meant():
    error = error_of(b'{"Application":"A","Instance":"B","ForAllAssociate":true}')

    assert error.detail == "unknown property ForAllAssociate, did you mean ForAllAssociates?"


def test_a_missing_associate_is_explained():
    assert "HTTP gateway" in error_of(body_of()).detail


SECRET = "s3cret-p4yload"


@pytest.mark.parametrize(
    "body",
    [
        SECRET.encode(),
        b'{"Application":"A' + SECRET.encode() + b"\xff",
        b'{"Application":"\\q' + SECRET.encode(),
        body_of(Application=" " + SECRET),
        body_of(Instance=SECRET + "\n"),
        body_of(AssociateId=SECRET),
        body_of(ForAllAssociates=SECRET),
        body_of(**{SECRET: 1}),
        body_of(**{"ForAllAssociates" + SECRET: 1}),
    ],
)
def test_the_text_never_repeats_the_payload(body):
    assert SECRET not in error_of(body).detail


@pytest.mark.parametrize(
    "body",
    [
        body_of(**{"x" * 60_000: 1}),
        body_of(**{f"x{i}": i for i in range(5_000)}),
        body_of(Instance="x" * 60_000),
    ],
    ids=shortened,
)
def test_the_text_is_short_however_large_the_body(body):
    assert len(error_of(body).detail.encode()) < 1024


def test_every_reason_says_what_it_means_in_under_a_kilobyte():
    assert all(0 < len(reason.meaning.encode()) < 1024 for reason in Reason)


# Any message


def decode_or_reason(body: bytes) -> ClearConfigurationCache | Reason:
    try:
        return wire.decode(body)
    except ContractError as error:
        return error.reason


PROPERTY_TEXT = (
    st.none() | st.text() | st.sampled_from(["application/json", "utf-8", 'application/json;charset="'])
)


@given(st.binary(max_size=200), st.builds(Properties, PROPERTY_TEXT, PROPERTY_TEXT, PROPERTY_TEXT))
def test_any_bytes_with_any_properties_give_a_command_or_a_contract_error(body, properties):
    try:
        outcome = wire.decode(body, properties)
    except ContractError as error:
        outcome = error

    assert isinstance(outcome, ClearConfigurationCache) or 0 < len(outcome.detail.encode()) < 1024


KEYS = st.sampled_from(["Application", "Instance", "ForAllAssociates", "AssociateId", "Associateid", ""])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 2**64),
    st.floats(),
    st.text(max_size=5),
    NAMES,
    st.just([{"a": "b"}]),
)


@st.composite
def nearly_right_bodies(draw) -> bytes:
    """Objects of the contract's properties: some missing, repeated, reordered, of a wrong type, then a byte changed."""
    pairs = [("Application", "A"), ("Instance", "B"), *draw(st.lists(st.tuples(KEYS, VALUES), max_size=3))]
    ascii_only = draw(st.booleans())
    shuffled = draw(st.permutations(pairs))
    text = ",".join(f"{json.dumps(k)}:{json.dumps(v, ensure_ascii=ascii_only)}" for k, v in shuffled)
    body = bytearray(f"{{{text}}}".encode("utf-8", "surrogatepass"))
    if draw(st.booleans()):
        position = draw(st.integers(0, len(body) - 1))
        body[position] = draw(st.sampled_from(b'"\\{}:,0 \x00\xff') | st.integers(0, 255))
    return bytes(body)


@given(nearly_right_bodies())
@example(GOOD)
@example(GOOD.replace(b"42", b"042"))
@example(GOOD.replace(b"42", b"-0"))
@example(GOOD.replace(b"Web", b"We\x7fb"))
def test_the_fast_path_and_the_thorough_one_never_disagree(body):
    fast = wire._decode_fast(body)
    try:
        thorough = wire._decode_thoroughly(body)
    except ContractError:
        thorough = None

    if fast is not None:
        assert thorough == fast
    elif b"\\" not in body:
        assert thorough is None


@given(COMMANDS)
def test_an_ordinary_good_body_takes_the_fast_path(command):
    body = wire.encode(command)

    assert (wire._decode_fast(body) is None) == (b"\\" in body)


def test_a_deeply_nested_body_is_refused_however_deep_the_stack_is_already():
    def nested(depth: int) -> ClearConfigurationCache | Reason:
        return decode_or_reason(b'{"x":' * 5_000) if depth == 0 else nested(depth - 1)

    assert nested(300) is Reason.INVALID_JSON
