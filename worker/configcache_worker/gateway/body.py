"""
A request's body: its bytes, bounded while they arrive, and the reader for each content type.

A reader takes bytes and gives the properties that are in them, with the types of JSON. Which properties a request has and
what they may be is said in ``command``.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl
from xml.parsers import expat

import jsonpatch
from jsonpointer import JsonPointerException
from starlette.requests import ClientDisconnect, Request

from configcache_worker.gateway.errors import INVALID_ARGUMENT, Unserved, bad_request, named

Properties = dict[str, Any]


class IncomingBody:
    """
    The body of *request*, not asked for until :meth:`read`: whoever waits for ``100 Continue`` sends nothing before.

    Args:
        request: Whose body.
        limit: Most bytes it may have.
        timeout_s: Longest time for all of it to arrive.
    """

    def __init__(self, request: Request, *, limit: int, timeout_s: float) -> None:
        self._request = request
        self._limit = limit
        self._timeout_s = timeout_s
        self._is_read = False
        self._is_late = False

    @property
    def ends_connection(self) -> bool:
        """Whether too much may still come for the connection to serve another request."""
        if self._is_read:
            return False
        headers = self._request.headers
        is_open = self._is_late or "transfer-encoding" in headers or "expect" in headers
        return is_open or self._declared() > self._limit

    async def read(self) -> bytes:
        """
        Receive the body.

        Raises:
            Unserved: 413, too large; 408, too slow.
            ClientDisconnect: The client has gone.
        """
        if self._declared() > self._limit:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._receive()
        except TimeoutError:
            self._is_late = True
            raise Unserved(
                408, "RequestTimeout", f"the body has not arrived within {self._timeout_s:g} s"
            ) from None

    async def _receive(self) -> bytes:
        body = b""
        while not self._is_read:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise self._too_large()
            self._is_read = not message.get("more_body", False)
        return body

    def _declared(self) -> int:
        length = self._request.headers.get("content-length", "")
        return int(length) if length.isascii() and length.isdecimal() else 0

    def _too_large(self) -> Unserved:
        return Unserved(413, INVALID_ARGUMENT, f"the body is larger than {self._limit:,} bytes")


def reader_for(request: Request) -> Callable[[bytes], Properties]:
    """
    How to read the body of *request*, by its header ``Content-Type``.

    Raises:
        Unserved: 415, nobody can: of no type that is known, compressed, or in another charset.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise Unserved(
            415,
            INVALID_ARGUMENT,
            "the body has a Content-Encoding; send it as it is",
            (("Accept-Encoding", "identity"),),
        )
    content_type = request.headers.get("content-type", "")
    media_type, _, parameters = content_type.partition(";")
    read = READERS.get(media_type.strip().lower())
    if read is None:
        raise _unsupported("the header Content-Type names none of the types that are read")
    charsets = {found.lower() for found in _CHARSET.findall(parameters)}
    if not charsets <= _CHARSETS:
        raise _unsupported("the charset must be utf-8")
    return read


def _unsupported(message: str) -> Unserved:
    return Unserved(
        415, INVALID_ARGUMENT, f"{message}; one of {ACCEPTED}, in UTF-8", (("Accept-Post", ACCEPTED),)
    )


_CHARSET: Final = re.compile(r'(?i)(?:^|;)\s*charset\s*=\s*"?([^\s;"]*)')
_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})


# JSON


def read_json(body: bytes) -> Properties:
    """``application/json`` and ``text/json``: an object."""
    return _object(_parsed(body))


def read_merge_patch(body: bytes) -> Properties:
    """``application/merge-patch+json`` (RFC 7396), merged onto an empty request: what is null is absent."""
    return {name: value for name, value in _object(_parsed(body)).items() if value is not None}


def read_json_patch(body: bytes) -> Properties:
    """``application/json-patch+json`` (RFC 6902), applied to an empty request."""
    operations = _parsed(body)
    if not isinstance(operations, list):
        raise bad_request("the body is no JSON Patch: it must be a list of operations, [...]")
    if len(operations) > _MOST_OPERATIONS:
        raise bad_request(f"the body has more than {_MOST_OPERATIONS} operations")
    document: Any = {}
    for number, operation in enumerate(operations, 1):
        document = _applied(operation, document, number)
    return _object(document)


_MOST_OPERATIONS: Final = 32
_MOST_VALUES: Final = 64
"""In the document, between two operations: a few that copy the whole into itself would fill any memory."""


def _applied(operation: object, document: object, number: int) -> object:
    if not isinstance(operation, dict):
        raise bad_request(f"operation {number} is not an object")
    if _is_large(operation.get("value")):
        raise bad_request(f"operation {number} has a value that is too large for a request")
    try:
        patched: object = jsonpatch.JsonPatch([operation]).apply(document)
    except jsonpatch.JsonPatchTestFailed:
        raise bad_request(f"operation {number} tests for what is not so") from None
    except (jsonpatch.JsonPatchException, JsonPointerException, *_ODD_OPERATION):
        raise bad_request(f"operation {number} can't be applied (RFC 6902)") from None
    if _is_large(patched):
        raise bad_request(f"operation {number} makes the request too large")
    return patched


# What the library lets escape for an operation of an odd shape, such as a path that is a number.
_ODD_OPERATION: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError)


def _is_large(value: object) -> bool:
    """Whether *value* has more than a few values in it, itself included. It may be nested as deeply as it likes."""
    waiting = [value]
    for count, current in enumerate(_unfolded(waiting)):
        if count >= _MOST_VALUES:
            return True
        if isinstance(current, dict):
            waiting += current.values()
        elif isinstance(current, list):
            waiting += current
    return False


def _unfolded(waiting: list[object]) -> Iterator[object]:
    while waiting:
        yield waiting.pop()


def _parsed(body: bytes) -> Any:  # noqa: ANN401
    try:
        # A byte order mark may be ignored (RFC 8259, section 8.1), and old clients send one.
        return json.loads(
            body.decode("utf-8-sig"),
            object_pairs_hook=_distinct,
            parse_int=_parse_integer,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        problem = error.msg.partition(":")[0]
        raise bad_request(
            f"the body is not JSON: {problem} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise bad_request("the body is nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> Properties:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _twice(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))
    return found


def _twice(name: str) -> Unserved:
    return bad_request(f"{named(name)} appears more than once, so nobody can tell which value was meant")


def _parse_integer(digits: str) -> int:
    # Python refuses to convert thousands of digits. No property is a number, so any will do.
    return int(digits) if len(digits) < _LONG_INTEGER else 0


_LONG_INTEGER: Final = 100


def _refuse_constant(name: str) -> None:
    raise bad_request(f"the body is not JSON: {name} is no JSON value")


def _object(value: object) -> Properties:
    if not isinstance(value, dict):
        raise bad_request("the request must be an object, {...}")
    return value


# XML and forms: everything is text


def read_xml(body: bytes) -> Properties:
    """
    ``application/xml`` and ``text/xml``: an element for each property, in a root of any name.

    Namespaces and attributes don't matter. There may be no document type, and with it no entities.
    """
    # Whatever its declaration says: who writes to a string in .NET and sends it as UTF-8 has one that says UTF-16. Nor may a
    # stranger name the decoder: what Python's odder ones raise is no ExpatError.
    elements = _Elements("utf-16" if body.startswith(_UTF_16_MARKS) else "utf-8")
    try:
        elements.parser.Parse(body, True)
    except expat.ExpatError as error:
        problem = expat.ErrorString(error.code)
        raise bad_request(
            f"the body is not XML: {problem} at line {error.lineno}, column {error.offset + 1}"
        ) from None
    return _typed(elements.found)


_UTF_16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Elements:
    """
    Collects the text of the elements below the root, and refuses everything else as soon as it comes.

    No tree is built, and nothing is deeper than two: so only the body's size bounds need a number.
    """

    def __init__(self, encoding: str) -> None:
        self.found: dict[str, str] = {}
        self._open: list[str] = []
        self.parser = parser = expat.ParserCreate(encoding, namespace_separator=" ")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text

    def _doctype(self, *_: object) -> None:
        raise bad_request("the body has a document type declaration, which is not read")

    def _start(self, name: str, _: Mapping[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if len(self._open) > 1:
            raise bad_request(f"{named(self._open[-1])} must have text in its element, not elements")
        if self._open:
            if local in self.found:
                raise _twice(local)
            self.found[local] = ""
        self._open.append(local)

    def _end(self, _: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        if len(self._open) > 1:
            self.found[self._open[-1]] += text
        elif text.strip():
            raise bad_request("the body has text beside the elements that stand for properties")


def read_form(body: bytes) -> Properties:
    """``application/x-www-form-urlencoded``: a field for each property."""
    try:
        fields = parse_qsl(
            body.decode("utf-8-sig"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=16,
        )
    except ValueError:
        raise bad_request(
            "the body is no form: it must be a few name=value separated by &, percent-encoded in UTF-8"
        ) from None
    return _typed(_distinct(fields))


def _typed(texts: Mapping[str, str]) -> Properties:
    """*texts*, the truth value among them as one."""
    found: Properties = dict(texts)
    if "ForAllAssociates" in texts:
        # In any case: .NET writes True and False.
        word = texts["ForAllAssociates"].strip().lower()
        if word not in _TRUTH:
            raise bad_request("ForAllAssociates must be true, false, 1 or 0")
        found["ForAllAssociates"] = _TRUTH[word]
    return found


_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}


READERS: Final[Mapping[str, Callable[[bytes], Properties]]] = {
    "application/json": read_json,
    "text/json": read_json,
    "application/merge-patch+json": read_merge_patch,
    "application/json-patch+json": read_json_patch,
    "application/xml": read_xml,
    "text/xml": read_xml,
    "application/x-www-form-urlencoded": read_form,
}

ACCEPTED: Final = ", ".join(READERS)
"""The value of ``Accept-Post``."""
