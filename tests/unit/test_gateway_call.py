"""The call over HTTP, without a server and with a broker that is a list: statuses, headers, and what is published."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from xml.etree import ElementTree

import pytest
from structlog.testing import capture_logs

from configcache import ClearConfigurationCache
from configcache.recording import Failure, RecordingPublisher
from configcache_worker.gateway.asgi import CALL_PATH, CLIENT_GONE, OPENAPI_PATH
from configcache_worker.gateway.authentication import Refusal
from configcache_worker.gateway.body import READERS
from tests.gateways import ANYBODY, BODIES, JSON, SAMPLE, Calls, application, in_process

EVERYBODY = ClearConfigurationCache.for_all("sed", "officia")
OWN = b'{"Application":"sed","Instance":"officia"}'


@pytest.fixture
async def client():
    async with in_process() as client:
        yield client


def error(answer):
    """What the answer says, in the classic shape."""
    shape = answer.json()
    assert shape["Error"] is True
    assert shape["ErrorSource"] == "configcache-gateway"
    assert set(shape) == {"Error", "ErrorType", "ErrorMessage", "ErrorSource"}
    return shape["ErrorType"], shape["ErrorMessage"]


# Served


async def test_a_published_command_is_204_without_a_body_and_a_content_type(client):
    answer = await client.call()

    assert answer.status_code == 204
    assert answer.content == b""
    assert "content-type" not in answer.headers
    assert "content-length" not in answer.headers
    assert client.publisher.commands == [EVERYBODY]


async def test_the_caller_is_the_associate():
    async with in_process(authenticator=Calls(ANYBODY)) as client:
        answer = await client.call(OWN)

    assert answer.status_code == 204
    assert client.publisher.commands == [ClearConfigurationCache.for_associate("sed", "officia", 7)]


@pytest.mark.parametrize("content_type", BODIES)
async def test_every_content_type_is_served(client, content_type):
    assert (await client.call(BODIES[content_type], content_type)).status_code == 204
    assert client.publisher.commands == [EVERYBODY]


@pytest.mark.parametrize(
    "content_type",
    [
        "Application/JSON",
        "application/json; charset=UTF-8",
        'text/json;charset="utf-8"',
        "application/json;q=1",
    ],
)
async def test_a_content_type_is_read_in_any_case_and_with_parameters(client, content_type):
    assert (await client.call(content_type=content_type)).status_code == 204


@pytest.mark.parametrize(
    "path",
    [
        CALL_PATH.upper(),
        CALL_PATH + "/",
        CALL_PATH + "?$select=name,category/id",
        CALL_PATH + "?%24select=nonsense&other=1",
        CALL_PATH.replace("Agents", "%41gents"),
    ],
)
async def test_the_path_is_read_as_the_classic_server_does(client, path):
    assert (await client.call(path=path)).status_code == 204


async def test_accept_headers_have_no_effect_on_success(client):
    answer = await client.call(accept="application/xml", accept_language="nb-NO")

    assert (answer.status_code, answer.content) == (204, b"")


async def test_trace_context_goes_with_the_message(client):
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
    }

    await client.call(**trace)

    assert client.publisher.traces == [trace]


@pytest.mark.parametrize("path", [CALL_PATH, f"/crm{CALL_PATH}", f"/CRM{CALL_PATH}"])
async def test_a_proxy_may_take_the_root_path_off_or_leave_it(path):
    async with in_process(root_path="/crm") as client:
        assert (await client.call(path=path)).status_code == 204


# Not served


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
async def test_another_method_is_405_and_says_which_is_right(client, method):
    answer = await client.call(None, None, method=method)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert client.publisher.commands == []


@pytest.mark.parametrize(
    "path",
    ["/", "/api/v1", CALL_PATH + "/x", CALL_PATH.replace("Agents", "%2541gents"), "/crm" + CALL_PATH, "//"],
)
async def test_another_path_is_404_in_the_same_shape(client, path):
    answer = await client.call(path=path)

    assert answer.status_code == 404
    assert error(answer) == ("SoNotFoundException", f"there is nothing but {CALL_PATH} and {OPENAPI_PATH}")


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "multipart/form-data", "application/json5"])
async def test_another_content_type_is_415_and_says_which_are_read(client, content_type):
    answer = await client.call(content_type=content_type)

    assert answer.status_code == 415
    assert answer.headers["accept-post"] == ", ".join(READERS)
    assert client.publisher.commands == []


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", '"utf-7"'])
async def test_another_charset_is_415(client, charset):
    answer = await client.call(content_type=f"{JSON}; charset={charset}")

    assert answer.status_code == 415
    assert "charset must be utf-8" in error(answer)[1]


async def test_a_compressed_body_is_415_and_says_what_is_read(client):
    answer = await client.call(content_encoding="gzip")

    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert (await client.call(content_encoding="identity")).status_code == 204


@pytest.mark.parametrize("body", [b"", b" \r\n"])
@pytest.mark.parametrize("content_type", READERS)
async def test_an_empty_body_is_400(client, content_type, body):
    answer = await client.call(body, content_type)

    assert answer.status_code == 400
    assert "the body is empty" in error(answer)[1]


async def test_a_malformed_body_is_400_and_says_what_and_where(client):
    answer = await client.call(b'{"Application": oops}')

    assert answer.status_code == 400
    assert error(answer) == (
        "SoInvalidArgumentException",
        "the body is not JSON: Expecting value at line 1, column 17",
    )


async def test_a_body_of_the_largest_size_is_read_and_a_larger_one_is_413():
    async with in_process(max_body_bytes=500) as client:
        fits = await client.call(SAMPLE.ljust(500))
        too_large = await client.call(SAMPLE.ljust(501))

    assert (fits.status_code, too_large.status_code) == (204, 413)
    assert error(too_large)[1] == "the body is larger than 500 bytes"
    assert too_large.headers["connection"] == "close"
    assert len(client.publisher.commands) == 1


async def test_a_body_without_a_length_is_bounded_while_it_comes():
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 100
            yield b" " * 100

    async with RecordingPublisher() as publisher:
        answer = await call_directly(application(publisher, max_body_bytes=500), endless())

    assert answer["status"] == 413
    assert sent == 600


async def call_directly(app, pieces, headers=((b"content-type", b"application/json"),)):
    """The answer of *app* to the call, whose body comes in *pieces*; None if there is none."""
    messages = []

    async def receive():
        async for piece in pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        return {"type": "http.disconnect"}

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": CALL_PATH,
        "query_string": b"",
        "headers": [*headers, (b"transfer-encoding", b"chunked")],
    }
    await app(scope, receive, send)
    return messages[0] if messages else None


async def test_a_body_that_does_not_come_is_408():
    async def slow():
        yield b"{"
        await asyncio.Event().wait()

    async with RecordingPublisher() as publisher:
        answer = await call_directly(application(publisher, receive_timeout_s=0.01), slow())

    assert answer["status"] == 408
    assert (b"connection", b"close") in answer["headers"]


async def test_a_client_that_goes_before_its_body_has_come_publishes_nothing():
    async def cut_off():
        yield SAMPLE

    seen = []
    async with RecordingPublisher() as publisher:
        app = application(publisher, answered=lambda status, duration_s: seen.append(status))
        answer = await call_directly(app, cut_off())

    assert answer is None
    assert publisher.commands == []
    assert seen == [CLIENT_GONE]


@pytest.mark.parametrize("content_type", READERS)
async def test_whatever_is_sent_is_answered_2xx_or_4xx(client, content_type):
    rng = random.Random(content_type)
    pieces = [
        b"",
        b"null",
        b"<",
        b"</",
        b"&",
        b"=",
        b'"',
        b"{}",
        b"[",
        b"\\u",
        b"\xff\xfe",
        b"\x00",
        b"%zz",
        b"1e999",
    ]
    accepts = ["*/*", "application/xml", "text/xml;q=1, application/json;q=0", ";;q=,", "a/b/c;q=nan"]
    statuses = Counter()
    for _ in range(100):
        body = bytearray(BODIES[content_type])
        for _ in range(rng.randint(0, 3)):
            at, end = sorted(rng.randint(0, len(body)) for _ in range(2))
            body[at : rng.choice([at, end])] = rng.choice([*pieces, body[at:end] * 2, rng.randbytes(4)])

        answer = await client.call(
            bytes(body),
            content_type + rng.choice(["", "; charset=utf-8", ";charset=;", '; charset="latin-1']),
            accept=rng.choice(accepts),
            content_encoding=rng.choice([None, None, None, "gzip"]),
        )

        statuses[answer.status_code // 100] += 1
    assert set(statuses) == {2, 4}


REFUSALS = [
    Refusal(401, "SoSessionException", "who are you?", challenges=('Basic realm="x"', "Bearer")),
    Refusal(403, "SoSentryException", "not here"),
    Refusal(429, "TooManyAttempts", "later", retry_after_s=7),
    Refusal(503, "CredentialsUnavailable", "the database is away", retry_after_s=1),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal.status))
async def test_who_is_refused_is_told_why_and_how_to_go_on(refusal):
    async with in_process(authenticator=Calls(refusal)) as client:
        answer = await client.call()

    assert answer.status_code == refusal.status
    assert error(answer) == (refusal.error_type, refusal.message)
    assert tuple(answer.headers.get_list("www-authenticate")) == refusal.challenges
    assert answer.headers.get("retry-after") == (refusal.retry_after_s and str(refusal.retry_after_s))
    assert client.publisher.commands == []


async def test_who_calls_is_asked_before_the_body_is_looked_at():
    async with in_process(authenticator=Calls(REFUSALS[0])) as client:
        assert (await client.call(b"{", "text/plain")).status_code == 401


async def test_who_may_not_clear_for_all_is_403():
    async with in_process(authenticator=Calls(ANYBODY)) as client:
        answer = await client.call(SAMPLE)

    assert answer.status_code == 403
    assert error(answer)[0] == "SoSentryException"
    assert client.publisher.commands == []


@pytest.mark.parametrize("failure", Failure)
async def test_whatever_keeps_the_command_from_the_queue_is_503_and_retried_later(client, failure):
    client.publisher.fail(failure)

    answer = await client.call()

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert error(answer) == (
        failure.value.kind.__name__,
        f"the command is not in the queue as far as is known, send it again: {failure.value.text}",
    )


class Slow(RecordingPublisher):
    """Publishes when it is told to."""

    def __init__(self):
        super().__init__()
        self.may_publish = asyncio.Event()
        self.waiting = 0

    async def _attempt(self, body, context):
        self.waiting += 1
        await self.may_publish.wait()
        await super()._attempt(body, context)


async def test_one_request_more_than_allowed_is_503_and_the_others_go_on():
    slow = Slow()
    async with in_process(publisher=slow, max_concurrency=2) as client:
        calls = [asyncio.create_task(client.call()) for _ in range(2)]
        while slow.waiting < 2:
            await asyncio.sleep(0)
        one_more = await client.call()
        document = await client.call(None, None, path=OPENAPI_PATH, method="GET")
        slow.may_publish.set()
        answers = await asyncio.gather(*calls)
        afterwards = await client.call()

    assert (one_more.status_code, one_more.headers["retry-after"]) == (503, "1")
    assert error(one_more)[0] == "TooBusy"
    assert document.status_code == 200
    assert [answer.status_code for answer in [*answers, afterwards]] == [204, 204, 204]


async def test_a_request_that_is_cut_off_by_a_stop_is_503():
    slow = Slow()
    async with in_process(publisher=slow) as client:
        call = asyncio.create_task(client.call())
        while slow.waiting < 1:
            await asyncio.sleep(0)
        call.cancel()
        answer = await call

    assert answer.status_code == 503
    assert error(answer)[0] == "Stopping"


class Broken:
    async def authenticate(self, request):
        raise ZeroDivisionError


async def test_a_fault_of_the_gateway_is_500_and_logged_with_the_requests_id():
    async with in_process(authenticator=Broken()) as client:
        with capture_logs() as lines:
            answer = await client.call()

    assert answer.status_code == 500
    assert error(answer)[0] == "InternalError"
    assert lines[0]["event"] == "gateway.failed"


# The shape of an error


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/xml", "application/xml"),
        ("text/xml, */*", "application/xml"),
        ("application/xml;q=0.5, text/json;q=0.9", JSON),
        ("application/xml; q=0.9, application/json; q=0.1", "application/xml"),
        ("application/xml;q=x", JSON),
        ("image/png", JSON),
        (",;,", JSON),
    ],
)
async def test_an_error_is_json_unless_xml_is_asked_for(client, accept, media_type):
    answer = await client.call(b"", accept=accept)

    assert answer.headers["content-type"].partition(";")[0] == media_type


async def test_an_error_in_xml_has_the_same_four_properties(client):
    in_json = (await client.call(b"<&")).json()

    answer = await client.call(b"<&", accept="application/xml")

    root = ElementTree.fromstring(answer.content)  # our own answer
    assert root.tag == "ErrorResponse"
    assert {element.tag: element.text for element in root} == {**in_json, "Error": "true"}


# Request ids, log lines, counting


@pytest.mark.parametrize("given", ["0af7651916cd43dd", "a.b:c_d-1", "x" * 64])
async def test_a_harmless_request_id_of_the_client_is_kept(client, given):
    assert (await client.call(x_request_id=given)).headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 65, 'a"b', "-x", "a b", "ä"])
async def test_any_other_request_gets_a_new_id(client, given):
    headers = {"x_request_id": given.encode()} if given else {}

    ids = {(await client.call(**headers)).headers["x-request-id"] for _ in range(2)}

    assert len(ids) == 2
    assert all(len(found) == 32 for found in ids)


@pytest.mark.parametrize("path", ["/", CALL_PATH, OPENAPI_PATH])
async def test_every_answer_has_a_request_id_and_what_a_cache_might_keep_is_not_stored(client, path):
    answer = await client.call(b"", path=path)

    assert answer.headers["x-request-id"]
    assert answer.headers["cache-control"] == "no-store"


async def test_each_request_is_one_line_without_what_the_client_has_sent(client):
    with capture_logs() as lines:
        await client.call()
        await client.call(b'{"Application":"hidden"}', authorization="Basic aGlkZGVu")
        client.publisher.fail(Failure.UNROUTABLE)
        await client.call()

    assert [(line["event"], line["log_level"], line["status"]) for line in lines] == [
        ("gateway.answered", "debug", 204),
        ("gateway.refused", "info", 400),
        ("gateway.unserved", "warning", 503),
    ]
    assert lines[1]["error_type"] == "SoInvalidArgumentException"
    assert "configcache topology" in lines[2]["error"]
    assert "hidden" not in json.dumps(lines).lower()


async def test_every_answer_is_counted_with_its_status_and_duration():
    seen = []
    async with in_process(answered=lambda status, duration_s: seen.append((status, duration_s))) as client:
        await client.call()
        await client.call(b"")
        await client.call(path="/")

    assert [status for status, _ in seen] == [204, 400, 404]
    assert all(0 < duration_s < 5 for _, duration_s in seen)


# The document


async def test_the_openapi_document_is_served_to_anybody():
    async with in_process(authenticator=Calls(REFUSALS[0])) as client:
        answer = await client.call(None, None, path=OPENAPI_PATH, method="GET")
        head = await client.call(None, None, path=OPENAPI_PATH, method="HEAD")
        post = await client.call(path=OPENAPI_PATH)

    assert answer.status_code == head.status_code == 200
    assert answer.headers["content-type"] == JSON
    assert set(answer.json()["paths"][CALL_PATH]["post"]["requestBody"]["content"]) == set(READERS)
    assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")
