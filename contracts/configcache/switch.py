"""
The switch: whether what is built is cached, for which applications and instances. The same for all who read the cache.

Off, every read builds and nothing is stored. Commands are consumed and clear all the same, so nothing stale waits for
the day on which it is switched on again.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

__all__ = ["CacheOverride", "CacheSwitch", "check_overrides", "read_overrides"]


class CacheOverride(BaseModel):
    """Another answer for one application, or for one instance of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    application: Annotated[str, Field(min_length=1)]
    instance: Annotated[str, Field(min_length=1)] | None = None
    """None: all instances of the application that have no override of their own."""
    enabled: bool


class CacheSwitch(BaseModel):
    """
    Whether what is built is cached. Off, every read builds and nothing is stored; clears go on all the same.

    The most specific override counts: of the instance, else of the application, else *enabled*.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    overrides: tuple[CacheOverride, ...] = ()

    @field_validator("overrides")
    @classmethod
    def _no_contradiction(cls, overrides: tuple[CacheOverride, ...]) -> tuple[CacheOverride, ...]:
        return check_overrides(overrides)

    def is_on(self, application: str, instance: str) -> bool:
        """Whether the rows of this application and instance are cached."""
        answers = {(each.application, each.instance): each.enabled for each in self.overrides}
        of_application = answers.get((application, None), self.enabled)
        return answers.get((application, instance), of_application)

    @classmethod
    def from_settings(
        cls, file: Path | str | None = None, *, environ: Mapping[str, str] | None = None
    ) -> Self:
        """
        The switch as the settings of the program have it: ``cache.enabled`` and ``cache.overrides`` of its TOML file,
        and over them the variables ``CONFIGCACHE_CACHE__ENABLED`` and ``CONFIGCACHE_CACHE__OVERRIDES``. Other settings
        are passed over. Read once; a change takes a restart, as everywhere else.

        Args:
            file: The TOML file, if there is one.
            environ: Environment variables; the process's own when None.

        Raises:
            OSError: The file can't be read.
            ValueError: It is not TOML, or a value is wrong. The text names it.
        """
        environ = os.environ if environ is None else environ
        table = tomllib.loads(Path(file).read_text(encoding="utf-8")) if file else {}
        given = {name: table.get("cache", {}).get(name) for name in cls.model_fields}
        values = {name: environ.get(f"CONFIGCACHE_CACHE__{name.upper()}", given[name]) for name in given}
        if isinstance(overrides := values["overrides"], str):
            try:
                values["overrides"] = read_overrides(overrides)
            except ValueError as error:
                raise ValueError(f"cache.overrides {error}") from None
        try:
            return cls.model_validate({name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(['cache', *map(str, first['loc'])])}: {first['msg']}") from None


_OVERRIDES: Final = TypeAdapter(tuple[CacheOverride, ...])


def read_overrides(text: str) -> tuple[CacheOverride, ...]:
    """
    Overrides from the text of an environment variable: a JSON list of objects.

    Raises:
        ValueError: The text is something else.
    """
    try:
        return _OVERRIDES.validate_json(text)
    except ValidationError:
        raise ValueError(
            'must be a list such as [{"application": "WebClient", "instance": "Web", "enabled": false}]'
        ) from None


def check_overrides(overrides: tuple[CacheOverride, ...]) -> tuple[CacheOverride, ...]:
    """
    *overrides*, if no two of them are about the same.

    Raises:
        ValueError: Two are.
    """
    keys = [(each.application, each.instance) for each in overrides]
    for application, instance in keys:
        if keys.count((application, instance)) > 1:
            whose = f"application {application!r}" + (f", instance {instance!r}" if instance else "")
            raise ValueError(f"must not name the same twice: {whose}")
    return overrides
