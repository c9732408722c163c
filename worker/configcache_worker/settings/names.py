"""
What a setting is called (in the file, in the environment, in messages) and how its value is shown.

Derived from the models of :mod:`~configcache_worker.settings.sections`; a setting is written down once, there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from configcache_worker.settings.sections import SECRET, SECTIONS

PREFIX: Final = "CONFIGCACHE_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting by its names, for messages, tables and documentation."""

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """As in the file and in messages: ``cache.columns.item``."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """As in the environment: ``CONFIGCACHE_CACHE__COLUMNS__ITEM``."""
        return PREFIX + "__".join(self.path).upper()

    @property
    def is_secret(self) -> bool:
        return self.field.json_schema_extra is SECRET

    @property
    def is_required(self) -> bool:
        return self.field.is_required()

    @property
    def description(self) -> str:
        return self.field.description or ""

    @property
    def expected(self) -> str:
        """The values it takes, in words: ``a whole number from 1 to 65535``."""
        return "a URL" if self.is_secret else _expected(self.field)

    @property
    def default(self) -> str:
        """For a human; ``(not set)`` where there is none."""
        return self.shown(self.field.get_default())

    def shown(self, value: object) -> str:
        """*value* for a human, without the secret in it."""
        if value is PydanticUndefined:
            return "(not set)"
        if self.is_secret:
            return masked(str(value)) if re.fullmatch(r"\w+://\S+", str(value)) else "***"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            return json.dumps(
                [{name: part for name, part in table.items() if part is not None} for table in value]
            )
        text = f"{value:g}" if isinstance(value, float) else str(value)
        return text if text and text.isprintable() else f"{text!r}"


def every_setting() -> Iterator[Setting]:
    """All settings there are, section by section."""
    for section, model in SECTIONS.items():
        yield from settings_of(model, (section,))


def settings_of(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Setting]:
    """The settings of *model*, which stands at *path*, and of the tables in it."""
    for attribute, field in model.model_fields.items():
        here = (*path, field.alias or attribute)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, here)
        else:
            yield Setting(here, field)


def _expected(field: FieldInfo) -> str:
    if get_origin(field.annotation) is tuple:
        return "a list of tables"
    if field.annotation is bool:
        return "true or false"
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    if field.annotation is str:
        return "a text" if _limit(field, "min_length") is None else "a text that is not empty"
    noun = "a whole number" if field.annotation is int else "a number"
    return f"{noun} {_range(field)}"


def _range(field: FieldInfo) -> str:
    above, least, most = (_limit(field, kind) for kind in ("gt", "ge", "le"))
    if above is not None:
        return f"above {above} and at most {most}"
    return f"of at least {least}" if most is None else f"from {least} to {most}"


def _limit(field: FieldInfo, kind: str) -> object:
    return next((getattr(rule, kind) for rule in field.metadata if hasattr(rule, kind)), None)


_URL_PASSWORD: Final = re.compile(r"(://[^\s:/@]*):\S*@")
_QUERY_PASSWORD: Final = re.compile(r"(?i)([?&](?:ssl)?password=)[^&\s]*")


def masked(text: str) -> str:
    """*text* with the password of every URL in it replaced by ``***``."""
    # Up to the last @ on purpose: a password with an unescaped / or @ must not show in part.
    return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", text))
