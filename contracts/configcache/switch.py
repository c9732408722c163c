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
        and over them the variables ``CONFIGCACHE_CACHE__ENABLED`` and ``CONFIGCACHE_CACHE__OVERRIDES``, or the files
        that these with ``_FILE`` name. Other settings are passed over. Read once; a change takes a restart, as
        everywhere else.

        Args:
            file: The TOML file; when None, the one that ``CONFIGCACHE_CONFIG`` names, else ``configcache.toml`` in the
                current directory if it is there.
            environ: Environment variables; the process's own when None.

        Raises:
            OSError: A file can't be read.
            ValueError: It is not TOML, or a value is wrong. The text names it.
        """
        environ = os.environ if environ is None else environ
        given = _table(file, environ)
        values = {name: _from_environment(name, environ, given.get(name)) for name in cls.model_fields}
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


def _table(file: Path | str | None, environ: Mapping[str, str]) -> Mapping[str, object]:
    """The section ``cache`` of the file that the program would take."""
    named = file or environ.get("CONFIGCACHE_CONFIG")
    path = Path(named or "configcache.toml")
    if not named and not path.is_file():
        return {}
    table = tomllib.loads(path.read_text(encoding="utf-8")).get("cache", {})
    if not isinstance(table, dict):
        raise ValueError(f"{path.name}: cache must be a table: [cache]")  # noqa: TRY004 - as for any wrong value
    return table


def _from_environment(name: str, environ: Mapping[str, str], default: object) -> object:
    variable = f"CONFIGCACHE_CACHE__{name.upper()}"
    by_file = variable + "_FILE"
    if variable in environ and by_file in environ:
        raise ValueError(f"cache.{name} is given twice: by {variable} and by {by_file}; keep one")
    if by_file in environ:
        return Path(environ[by_file]).read_text(encoding="utf-8").rstrip("\r\n")
    return environ.get(variable, default)


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
