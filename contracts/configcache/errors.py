"""
What can go wrong for a producer, in words: the closed list of contract reasons, and the publisher's errors.

Nothing here decides anything. ``command`` and ``wire`` give a message its reason, ``connection`` and ``publisher`` raise
the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configcache.command import ClearConfigurationCache

__all__ = [
    "BrokerUnavailable",
    "ContractError",
    "NotAllPublished",
    "PublishError",
    "Reason",
    "Refused",
    "Unroutable",
]


class Reason(enum.StrEnum):
    """
    Why a message can never be applied. The values are stable words; they stand on dead letters and in metrics.

    The list is closed. It is in the order of the checks: where several reasons apply, the first one is given.
    """

    meaning: str
    """What the reason says and what would be right, in one or two sentences for a producer's author."""

    def __new__(cls, word: str, meaning: str = "") -> Reason:
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member

    WRONG_MESSAGE_TYPE = (
        "wrong-message-type",
        "The `type` property names another message. It must be `ClearConfigurationCache` or absent.",
    )
    UNSUPPORTED_CONTENT_TYPE = (
        "unsupported-content-type",
        "The `content_type` property must be `application/json` or absent; its charset, if given, must be `utf-8`.",
    )
    UNSUPPORTED_CONTENT_ENCODING = (
        "unsupported-content-encoding",
        "The `content_encoding` property must be `utf-8`, `identity` or absent; compressed bodies are not read.",
    )
    BODY_TOO_LARGE = (
        "body-too-large",
        "The body is over 65,536 bytes. A command needs a few hundred.",
    )
    INVALID_UTF_8 = (
        "invalid-utf-8",
        "The body is not UTF-8, or begins with a byte order mark. Send UTF-8 without one.",
    )
    INVALID_JSON = (
        "invalid-json",
        "The body is not one JSON value: a syntax error, something after its end, NaN or Infinity, or nested too deeply.",
    )
    NOT_AN_OBJECT = (
        "not-an-object",
        "The body is JSON but not an object.",
    )
    DUPLICATE_PROPERTY = (
        "duplicate-property",
        "A property appears more than once, so nobody can tell which value was meant.",
    )
    UNKNOWN_PROPERTY = (
        "unknown-property",
        "A property is none of Application, Instance, ForAllAssociates and AssociateId. Names are case-sensitive; a"
        " misspelt one is an error because ignoring it could clear too little or too much.",
    )
    MISSING_APPLICATION = (
        "missing-application",
        "Application is required.",
    )
    INVALID_APPLICATION = (
        "invalid-application",
        "Application must be a string of 1 to 254 characters, without white space around it, control characters and"
        " lone surrogates. A blank name is never a wildcard.",
    )
    MISSING_INSTANCE = (
        "missing-instance",
        "Instance is required.",
    )
    INVALID_INSTANCE = (
        "invalid-instance",
        "Instance must be a string of 1 to 254 characters, without white space around it, control characters and"
        " lone surrogates. A blank name is never a wildcard.",
    )
    INVALID_FOR_ALL_ASSOCIATES = (
        "invalid-for-all-associates",
        "ForAllAssociates must be true or false; absent means false. null, 0, 1 and strings are not accepted.",
    )
    INVALID_ASSOCIATE_ID = (
        "invalid-associate-id",
        "AssociateId must be an integer from 1 to 9223372036854775807, without a fraction or exponent, not a string.",
    )
    MISSING_ASSOCIATE = (
        "missing-associate",
        "ForAllAssociates is false or absent, so AssociateId must name the associate whose rows to clear. The HTTP"
        " gateway fills it from the caller; a message must carry it.",
    )
    UNEXPECTED_ASSOCIATE = (
        "unexpected-associate",
        "ForAllAssociates is true, so AssociateId must be absent or null: the rows of every associate are cleared.",
    )
    UNREADABLE_PROPERTIES = (
        "unreadable-properties",
        "The AMQP properties or headers cannot be decoded (a timestamp out of range, text that is not UTF-8). The"
        " broker dead-letters its own copy of the message.",
    )
    REFUSED_BY_DATABASE = (
        "refused-by-database",
        "The command is well-formed, but the database refused it again and again while it accepted others.",
    )


class ContractError(ValueError):
    """
    A message breaks the contract.

    Attributes:
        reason: Which rule it breaks, from the closed list.
        detail: One sentence on what is wrong and what would be right, under 1 KiB. Never contains the payload.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class PublishError(Exception):
    """The command may not have reached its queue. Publishing it again is always safe: a clear can be repeated."""


class BrokerUnavailable(PublishError):
    """The broker could not be reached, did not answer in time, or the connection was lost. Try again later."""


class Unroutable(PublishError):
    """The broker took the command but no queue is bound for it. Run ``configcache topology`` once."""


class Refused(PublishError):
    """The broker answered no: no permission, no such exchange, or a queue that takes no more. Its words are in the text."""


class NotAllPublished(PublishError):
    """
    Of many commands, some were not published. The others were.

    Attributes:
        failed: Each of those with its error, in no order. Publish them again, or all: both are safe.
    """

    def __init__(self, failed: Sequence[tuple[ClearConfigurationCache, PublishError]], *, of: int) -> None:
        super().__init__(f"{len(failed)} of {of} commands were not published; the first: {failed[0][1]}")
        self.failed = tuple(failed)
