"""
Where the values come from: the environment over the TOML file over the defaults; and what is said when one is wrong.

The values are collected with their origins first, then validated section by section. pydantic-settings has sources of
its own, which are not used: they read the process environment wherever settings are built, and they can't tell where a
value came from or what a misspelt name meant.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from configcache.network import describe_os_error
from configcache_worker.settings.names import PREFIX, Setting, every_setting, settings_of
from configcache_worker.settings.sections import SECTIONS, Section, Settings

DEFAULT_FILE: Final = "configcache.toml"
FILE_VARIABLE: Final = "CONFIGCACHE_CONFIG"


class SettingsError(Exception):
    """One or more settings are wrong. Each of *problems* is one readable line that names its setting, no secret."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_Known = Mapping[tuple[str, ...], Setting]


class Found(NamedTuple):
    """A value somebody gave, and where."""

    value: object
    origin: str


class Effective(NamedTuple):
    """One line of the table that `configcache settings` prints."""

    setting: Setting
    value: str
    """For a human; secrets are masked."""
    origin: str


def load(
    sections: Collection[str],
    *,
    config: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """
    The settings, with *sections* validated.

    Args:
        sections: Names of :data:`SECTIONS`.
        config: The TOML file. Without it, ``CONFIGCACHE_CONFIG`` names it, or else ``configcache.toml`` is taken if it
            is there.
        environ: Environment variables; the process's own when None.
        directory: What relative file names start from; the working directory when None.

    Raises:
        SettingsError: A value of these sections is missing or wrong, or a name anywhere is unknown.
    """
    return read(config=config, environ=environ, directory=directory).settings(sections)


def read(
    *,
    config: Path | str | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Sources:
    """Collect the values from file and environment (arguments as for :func:`load`). What is wrong is kept for later."""
    environ = os.environ if environ is None else environ
    directory = directory or Path.cwd()
    problems: list[str] = []
    settings = {setting.path: setting for setting in every_setting()}
    file = _file(config, environ, directory)
    from_file = _from_file(file, settings, problems)
    from_environment = _from_environment(environ, directory, settings, problems)
    return Sources({**from_file, **from_environment}, tuple(problems), file.name if file else DEFAULT_FILE)


@dataclass(frozen=True)
class Sources:
    """The values given, by path of their setting, and what was wrong already while collecting them."""

    # Not in the repr: the values are as they were given, secrets included.
    found: Mapping[tuple[str, ...], Found] = field(repr=False)
    problems: tuple[str, ...]
    file_name: str = DEFAULT_FILE
    """The file that was read, or the one that would have been."""

    def settings(self, sections: Collection[str]) -> Settings:
        """
        Validate *sections*.

        Raises:
            SettingsError: With all that is wrong, a line each. What went wrong while collecting comes alone: a value
                that is missing for that reason would be told twice.
        """
        used = {section: self._validated(section) for section in sections}
        problems = self.problems or tuple(problem for found in used.values() for problem in found.problems)
        if problems:
            raise SettingsError(*problems)
        unused = {
            section: model.model_construct() for section, model in SECTIONS.items() if section not in used
        }
        return Settings.model_validate({name: found.section for name, found in used.items()} | unused)

    def effective(self) -> Iterator[Effective]:
        """Every setting with the value in force and its origin; as it was given where its section is not valid."""
        for section, model in SECTIONS.items():
            valid = self._validated(section).section
            in_force = valid.model_dump(by_alias=True) if valid else {}
            for setting in settings_of(model, (section,)):
                given = self.found.get(setting.path, Found(setting.field.get_default(), "default"))
                value = _at(in_force, setting.path[1:]) if valid else given.value
                yield Effective(setting, setting.shown(value), given.origin)

    def _validated(self, section: str) -> _Validated:
        values: dict[str, Any] = {}
        for path, found in self.found.items():
            if path[0] == section:
                _put(values, path[1:], found.value)
        try:
            return _Validated(SECTIONS[section].model_validate(values), [])
        except ValidationError as error:
            return _Validated(
                None, [self._in_words(section, detail) for detail in error.errors(include_url=False)]
            )

    def _in_words(self, section: str, detail: ErrorDetails) -> str:
        path = (section, *(str(part) for part in detail["loc"]))
        name, setting = ".".join(path), next((s for s in every_setting() if s.path == path), None)
        if setting and detail["type"] == "missing":
            return (
                f"{name} is missing: set {setting.variable}, "
                f"or {path[-1]} under [{'.'.join(path[:-1])}] in {self.file_name}"
            )
        if path in self.found:
            name += f" ({self.found[path].origin})"
        if detail["type"] == "value_error":
            return f"{name} {detail['ctx']['error']}"
        if setting:
            return f"{name} must be {setting.expected}, not {setting.shown(self.found[path].value)}"
        return f"{name}: {detail['msg']}"


class _Validated(NamedTuple):
    """A section, or what is wrong with it."""

    section: Section | None
    problems: list[str]


def _put(table: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table[path[-1]] = value


def _at(table: Mapping[str, Any], path: tuple[str, ...]) -> object:
    for name in path[:-1]:
        table = table[name]
    return table[path[-1]]


def _file(config: Path | str | None, environ: Mapping[str, str], directory: Path) -> Path | None:
    named = config or environ.get(FILE_VARIABLE)
    if named:
        return directory / named
    default = directory / DEFAULT_FILE
    return default if default.is_file() else None


def _from_file(file: Path | None, known: _Known, problems: list[str]) -> dict[tuple[str, ...], Found]:
    if file is None:
        return {}
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"the settings file {file} can't be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"the settings file {file} is not TOML: {error}")
    else:
        return dict(_leaves(table, (), file, known, problems))
    return {}


def _leaves(
    table: Mapping[str, object], above: tuple[str, ...], file: Path, known: _Known, problems: list[str]
) -> Iterator[tuple[tuple[str, ...], Found]]:
    for key, value in table.items():
        path = (*above, key)
        if path in known:
            yield path, Found(value, f"file {file.name}")
        elif not any(setting[: len(path)] == path for setting in known):
            problems.append(f"{file.name}: {'.'.join(path)} is no setting{_meant(path, known)}")
        elif isinstance(value, dict):
            yield from _leaves(value, path, file, known, problems)
        else:
            problems.append(f"{file.name}: {'.'.join(path)} must be a table: [{'.'.join(path)}]")


def _meant(path: tuple[str, ...], known: _Known) -> str:
    sections = {setting[: len(path)] for setting in known}
    names = [".".join(name) for name in sections | set(known)]
    elsewhere = [".".join(setting) for setting in known if setting[-1] == path[-1]]
    close = elsewhere if len(elsewhere) == 1 else difflib.get_close_matches(".".join(path), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _from_environment(
    environ: Mapping[str, str], directory: Path, known: _Known, problems: list[str]
) -> dict[tuple[str, ...], Found]:
    variables = {setting.variable: setting for setting in known.values()}
    problems += _misnamed(environ, variables)
    found: dict[tuple[str, ...], Found] = {}
    for variable, setting in variables.items():
        by_file = variable + "_FILE"
        if variable in environ and by_file in environ:
            problems.append(f"{setting.name} is given twice: by {variable} and by {by_file}; keep one")
        elif variable in environ:
            found[setting.path] = Found(environ[variable], f"environment {variable}")
        elif by_file in environ:
            try:
                found[setting.path] = Found(
                    _content(directory / environ[by_file]), f"file named by {by_file}"
                )
            except OSError as error:
                problems.append(
                    f"{setting.name}: the file named by {by_file} can't be read: {describe_os_error(error)}"
                )
            except UnicodeDecodeError:
                problems.append(f"{setting.name}: the file named by {by_file} is not UTF-8")
    return found


def _content(file: Path) -> str:
    # Secrets mounted as files mostly end with a line break that is not part of them.
    return file.read_text(encoding="utf-8").rstrip("\r\n")


def _misnamed(environ: Mapping[str, str], variables: Collection[str]) -> Iterator[str]:
    """
    Variables that were surely meant for us but would change nothing.

    Others with our prefix are left alone: ports of a compose file, links a container platform sets, servers for tests.
    """
    right = {name for variable in variables for name in (variable, variable + "_FILE")}
    by_flat_name = {name.replace("__", "_"): name for name in right}
    for name in environ:
        upper = name.upper()
        if name in right or not upper.startswith(PREFIX):
            continue
        if meant := by_flat_name.get(upper.replace("__", "_")):
            yield f"the environment variable {name} is no setting; its name is {meant}"
        elif "__" in name.removeprefix(PREFIX):
            close = difflib.get_close_matches(upper, sorted(right), n=1)
            yield f"the environment variable {name} is no setting" + (
                f"; did you mean {close[0]}?" if close else ""
            )
