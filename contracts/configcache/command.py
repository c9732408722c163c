"""
The command ``ClearConfigurationCache`` and its rules, each stated once.

A command that exists is valid: it cannot be constructed otherwise. Bytes and message properties are the business of
``wire``; what a command does is the worker's.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from configcache.errors import Reason

__all__ = ["ClearConfigurationCache"]

# What str.strip() removes apart from control characters, and Unicode category Cc, spelt out so that the pattern means
# the same to pydantic and to any reader of the JSON Schema.
_SPACE = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CONTROL = r"\u0000-\u001f\u007f-\u009f"
_NAME_PATTERN = rf"^[^{_SPACE}{_CONTROL}]([^{_CONTROL}]*[^{_SPACE}{_CONTROL}])?$"

_LONGEST_NAME = 254

_Name = Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME, pattern=_NAME_PATTERN)]
_AssociateId = Annotated[int, Field(ge=1, le=2**63 - 1)]


class ClearConfigurationCache(BaseModel):
    """
    Clear the cached configuration of one application and instance, for one associate or for all of them.

    Immutable and valid by construction; keyword names may be written in either form::

        ClearConfigurationCache(application="WebClient", instance="Web", associate_id=42)
        ClearConfigurationCache(Application="WebClient", Instance="Web", ForAllAssociates=True)

    All items of the scope go. Names compare exactly, case included. Clearing what is not cached is success.

    Raises:
        pydantic.ValidationError: One entry for each violated rule; its ``type`` is the word of a
            :class:`~configcache.errors.Reason`.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", validate_by_name=True, validate_by_alias=True
    )

    application: _Name = Field(alias="Application", description="Which client program, such as WebClient.")
    instance: _Name = Field(alias="Instance", description="Which named configuration set of it, such as Web.")
    for_all_associates: bool = Field(
        default=False, alias="ForAllAssociates", description="Clear the rows of every associate."
    )
    associate_id: _AssociateId | None = Field(
        default=None, alias="AssociateId", description="Whose rows to clear, where it is not everybody's."
    )

    @classmethod
    def for_all(cls, application: str, instance: str) -> Self:
        """Clear the rows of every associate."""
        return cls(application=application, instance=instance, for_all_associates=True)

    @classmethod
    def for_associate(cls, application: str, instance: str, associate_id: int) -> Self:
        """Clear the rows of one associate."""
        return cls(application=application, instance=instance, associate_id=associate_id)

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401
        """Apply the rules of each property, then the one between two of them, and report in a producer's words."""
        try:
            command = handler(data)
        except ValidationError as error:
            raise _in_producers_words(error) from None
        if command.for_all_associates:
            if command.associate_id is not None:
                raise _violation(Reason.UNEXPECTED_ASSOCIATE)
        elif command.associate_id is None:
            raise _violation(Reason.MISSING_ASSOCIATE)
        return command


_ALIASES = {name: str(field.alias) for name, field in ClearConfigurationCache.model_fields.items()}

PROPERTIES = tuple(_ALIASES.values())
"""The contract's property names, in its order."""


def describe_unknown(name: str) -> str:
    """
    Say that the property *name* is unknown, and which one was probably meant.

    A name is payload too, and payload stays out of logs: *name* is repeated only if it is plainly a misspelling.
    """
    if _HARMLESS_NAME.fullmatch(name):
        known = {alias.lower(): alias for alias in PROPERTIES}
        meant = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)
        if meant:
            return f"unknown property {name}, did you mean {known[meant[0]]}?"
    return f"unknown property; the contract has {', '.join(PROPERTIES)} and no other"


_HARMLESS_NAME = re.compile(r"[A-Za-z_]{1,32}")


def _violation(reason: Reason) -> PydanticCustomError:
    return PydanticCustomError(reason.value, reason.meaning)


def _in_producers_words(error: ValidationError) -> ValidationError:
    return ValidationError.from_exception_data(
        error.title, [_reworded(details) for details in error.errors(include_url=False)]
    )


def _reworded(details: ErrorDetails) -> InitErrorDetails:
    violation: PydanticCustomError | str
    match details["loc"]:
        case (str() as name,) if details["type"] == "extra_forbidden":
            violation = PydanticCustomError(Reason.UNKNOWN_PROPERTY.value, describe_unknown(name))
        case (str() as name,):
            violation = _wrong_value(_ALIASES.get(name, name), details["type"], details["input"])
        case _:  # not an object at all: pydantic's own words say it
            violation = details["type"]
    return InitErrorDetails(
        type=violation, loc=details["loc"], input=details["input"], ctx=details.get("ctx", {})
    )


def _wrong_value(name: str, pydantic_type: str, value: object) -> PydanticCustomError:
    match name:
        case "ForAllAssociates":
            return _violation(Reason.INVALID_FOR_ALL_ASSOCIATES)
        case "AssociateId":
            return _violation(Reason.INVALID_ASSOCIATE_ID)
    missing, invalid = _NAME_REASONS[name]
    if pydantic_type == "missing":
        return _violation(missing)
    return PydanticCustomError(invalid.value, f"{name} {_what_is_wrong(value)}")


_NAME_REASONS = {
    "Application": (Reason.MISSING_APPLICATION, Reason.INVALID_APPLICATION),
    "Instance": (Reason.MISSING_INSTANCE, Reason.INVALID_INSTANCE),
}


def _what_is_wrong(value: object) -> str:
    """Name the first broken rule of a name that pydantic has refused."""
    if not isinstance(value, str):
        return "must be a string"
    if not value.strip():
        return "must not be blank; a blank name is an error, never a wildcard"
    if len(value) > _LONGEST_NAME:
        return f"must be at most {_LONGEST_NAME} characters long"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "must not contain lone surrogates"
    if value != value.strip():
        return "must not begin or end with white space"
    return "must not contain control characters (such as a line break or a tab)"
