"""What can be done about a letter, by its reason: the shortest way from `show` to `replay`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from configcache.errors import Reason
from configcache_worker.letters.letter import DELIVERY_LIMIT, DeadLetter

_PRODUCER: Final = "nothing can be mended in it: let the producer publish again, then {discard}"
_PROPERTIES: Final = "if its body is a command all the same: {replay} --as-command"
_AS_IT_IS: Final = "once the cause is mended: {replay}"

_BY_REASON: Final[Mapping[str, str]] = {
    Reason.WRONG_MESSAGE_TYPE: _PROPERTIES,
    Reason.UNSUPPORTED_CONTENT_TYPE: _PROPERTIES,
    Reason.UNSUPPORTED_CONTENT_ENCODING: _PROPERTIES,
    Reason.UNREADABLE_PROPERTIES: _PROPERTIES,
    Reason.BODY_TOO_LARGE: _PRODUCER,
    Reason.INVALID_UTF_8: _PRODUCER,
    Reason.INVALID_JSON: _PRODUCER,
    Reason.NOT_AN_OBJECT: _PRODUCER,
    Reason.DUPLICATE_PROPERTY: "say what was meant, in place of all of that name: {replay} --set Property=value",
    Reason.UNKNOWN_PROPERTY: "leave it out, and say what was meant: {replay} --unset Name --set Property=value",
    Reason.MISSING_APPLICATION: "{replay} --set Application=NAME",
    Reason.INVALID_APPLICATION: "{replay} --set Application=NAME",
    Reason.MISSING_INSTANCE: "{replay} --set Instance=NAME",
    Reason.INVALID_INSTANCE: "{replay} --set Instance=NAME",
    Reason.INVALID_FOR_ALL_ASSOCIATES: "{replay} --set ForAllAssociates=true, or =false",
    Reason.INVALID_ASSOCIATE_ID: "{replay} --set AssociateId=ID",
    Reason.MISSING_ASSOCIATE: "{replay} --set AssociateId=ID, or --set ForAllAssociates=true",
    Reason.UNEXPECTED_ASSOCIATE: "{replay} --unset AssociateId, or --set ForAllAssociates=false",
    Reason.REFUSED_BY_DATABASE: _AS_IT_IS,
    DELIVERY_LIMIT: _AS_IT_IS,
}
_OTHERWISE: Final = "see what it would be: {replay} --dry-run"


def advise(letter: DeadLetter) -> str:
    """What to do about *letter*, as the commands to type."""
    command = "configcache dead-letters {} " + letter.id
    return _BY_REASON.get(letter.reason, _OTHERWISE).format(
        replay=command.format("replay"), discard=command.format("discard")
    )
