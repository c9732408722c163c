"""
Messages to scopes, without decoding again what was decoded before.

A message that differs from an earlier one in nothing but the associate's number asks for the same with another number:
only the number is read then, which takes a tenth of the time. What is valid is decided in ``configcache.wire`` alone.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from configcache.wire import Properties, decode
from configcache_worker.core.ports import Scope

_REMEMBERED_PROPERTIES: Final = 4
_REMEMBERED: Final = 1024
_LONGEST_BODY_BYTES: Final = 1024
_DIGITS: Final = b"0123456789"
_ASSOCIATE_COMES: Final = re.compile(rb'"AssociateId"[ \t\r\n]*:[ \t\r\n]*\Z')
_ASSOCIATE_ID: Final = re.compile(rb"[1-9][0-9]{0,17}\}")
"""An integer in the one way that JSON has for it, well within the contract's range; then the end of the object."""


class Decoder:
    """Decodes messages. Remembers up to some 14 MiB of them, and nothing of one that is refused."""

    def __init__(self) -> None:
        self._memos: dict[Properties, _Memo] = {}
        """By the properties that the messages came with."""
        self._properties = Properties()
        """Those of the last message, which are those of nearly all."""
        self._memo = _Memo({}, {})

    def scope(self, body: bytes, properties: Properties) -> Scope:
        """
        What the message asks to clear.

        Raises:
            ContractError: It breaks the contract.
        """
        if properties is not self._properties:
            self._memo, self._properties = self._memos.get(properties) or _Memo({}, {}), properties
        # All up to the last number, if the message ends with one: {"Application":"A","Instance":"I","AssociateId":
        stem = body[:-1].rstrip(_DIGITS)
        known = self._memo.stems.get(stem)
        if known is not None and _ASSOCIATE_ID.fullmatch(body, len(stem)):
            return Scope(known.application, known.instance, int(body[len(stem) : -1]))
        return self._memo.bodies.get(body) or self._decode(body, properties, stem)

    def _decode(self, body: bytes, properties: Properties, stem: bytes) -> Scope:
        command = decode(body, properties)
        scope = Scope(command.application, command.instance, command.associate_id)
        # A valid message has one number, and after this name it is the associate's.
        if len(body) <= _LONGEST_BODY_BYTES:
            if _ASSOCIATE_COMES.search(stem) and _ASSOCIATE_ID.fullmatch(body, len(stem)):
                _remember(self._memo.stems, stem, scope)
            else:
                _remember(self._memo.bodies, body, scope)
        if properties not in self._memos:
            if len(self._memos) >= _REMEMBERED_PROPERTIES:
                self._memos.clear()
            self._memos[properties] = self._memo
        return scope


class _Memo(NamedTuple):
    """What was decoded. Two tables, since a stem is no valid body, and must not be taken for one."""

    bodies: dict[bytes, Scope]
    stems: dict[bytes, Scope]
    """The associate of these scopes means nothing."""


def _remember(scopes: dict[bytes, Scope], key: bytes, scope: Scope) -> None:
    if len(scopes) >= _REMEMBERED:
        scopes.clear()
    scopes[key] = scope
