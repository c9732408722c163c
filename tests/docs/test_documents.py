"""
Every code block of the documents is executed, or is output.

What happens to a block says its info string, which GitHub uses for colours and does not show:

=========  =============================================================================================================
python     executed, with ``await`` and ``async with`` at the top level too; functions called ``test_*`` are called, with
           the fixtures they ask for
sh         executed by a shell in an empty folder; every command must succeed
console    the lines behind ``$`` are executed by a shell, and must print the lines between them; ``…`` stands for
           anything, a failure is no error
sql        executed in the database; what it changed stays for no other block
json       a message's body: it must be accepted
toml       a settings file: it must be valid
text       output, not executed; so is a block without an info string
=========  =============================================================================================================

The folder has the project's ``examples``. URLs of brokers and databases are replaced by those of private servers, on which exchanges, queues and tables exist. Of the
commands, ``configcache``, ``python`` and ``cat`` are real, and the stand-ins of ``stand_ins.py`` answer for others; more there are not.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from configcache import decode
from configcache_worker import testing
from configcache_worker.__main__ import VERBS
from configcache_worker.settings import SECTIONS, read
from configcache_worker.testing import configuration_cache
from tests.conftest import available
from tests.docs import stand_ins
from tests.docs.documents import BLOCKS, DOCUMENTS, PROJECT

LANGUAGES = {"python", "sh", "console", "sql", "json", "toml", "text", ""}
REAL_COMMANDS = ("cat",)

_BROKER_URL = re.compile(r"amqps?://[^\s\"'`<>|\\]+")
_DATABASE_URL = re.compile(r"postgres(?:ql)?://[^\s\"'`<>|\\]+")


def each(*languages):
    """Runs a test for each block of *languages*."""
    found = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", found, ids=str)


@pytest.fixture
async def settings(servers):
    """Settings that name private servers, with topology and tables."""
    with available():
        async with configuration_cache(servers=servers, start_worker=False) as system:
            yield system.settings


@pytest.fixture
def shell(settings, tmp_path):
    """Executes a script in an empty folder: its exit code and what it printed on both outputs."""
    commands = _commands(tmp_path / "commands")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "examples").symlink_to(PROJECT / "examples")
    environment = {
        "PATH": str(commands),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CONFIGCACHE_BROKER__URL": settings.broker.url,
        "CONFIGCACHE_DATABASE__URL": settings.database.url,
    }

    async def shell(script):
        return await asyncio.to_thread(
            subprocess.run,
            ["/bin/sh", "-eu", "-c", _on_private_servers(script, settings)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    return shell


def _commands(folder):
    """A folder with the only commands there are."""
    folder.mkdir()
    for name in stand_ins.STAND_INS:
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_ins.__file__}" {name} "$@"\n')
        command.chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    for name in REAL_COMMANDS:
        (folder / name).symlink_to(shutil.which(name))
    return folder


def _on_private_servers(text, settings):
    text = _BROKER_URL.sub(lambda _: settings.broker.url, text)
    return _DATABASE_URL.sub(lambda _: settings.database.url, text)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_is_of_a_kind_that_is_executed_or_output(block):
    assert block.language in LANGUAGES


@each("python")
async def test_python_runs(block, settings, servers, monkeypatch, request):
    monkeypatch.setattr(testing, "_shared_servers", lambda: servers)
    code = compile(
        _on_private_servers(block.text, settings),
        filename=str(block),
        mode="exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    names = {"__name__": "documented"}

    await _finished(eval(code, names))
    for name in [name for name in names if name.startswith("test_")]:
        wanted = inspect.signature(names[name]).parameters
        await _finished(names[name](**{fixture: request.getfixturevalue(fixture) for fixture in wanted}))


async def _finished(outcome):
    if inspect.isawaitable(outcome):
        await outcome


@each("sh")
async def test_commands_succeed(block, shell):
    outcome = await shell(block.text)

    assert outcome.returncode == 0, outcome.stdout


@each("console")
async def test_commands_print_what_is_shown(block, shell):
    first, *sessions = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert first == ""
    for session in sessions:
        command, _, expected = session.partition("\n")

        outcome = await shell(command)

        pattern = ".*".join(re.escape(part) for part in expected.split("…"))
        assert re.fullmatch(pattern, outcome.stdout), f"$ {command}\n{outcome.stdout}"


@each("sql")
async def test_statements_succeed(block, settings):
    connection = await asyncpg.connect(settings.database.url)
    await connection.execute(stand_ins.TABLES)
    await connection.execute(block.text)
    await connection.close()


@each("json")
def test_examples_of_messages_are_accepted(block):
    assert decode(block.text.encode())


@each("toml")
def test_settings_files_are_valid(block, settings, tmp_path):
    (tmp_path / "configcache.toml").write_text(_on_private_servers(block.text, settings))
    urls = {
        "CONFIGCACHE_BROKER__URL": settings.broker.url,
        "CONFIGCACHE_DATABASE__URL": settings.database.url,
    }

    assert read(environ=urls, directory=tmp_path).settings(SECTIONS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    local = [target for target in targets if not re.match(r"\w+:", target)]

    assert [target for target in local if not _exists(document, target)] == []


def _exists(document: Path, target: str) -> bool:
    path, _, heading = target.partition("#")
    file = document.parent / path if path else document
    if not heading:
        return file.exists()
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return heading in {re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_the_verbs_that_are_named_exist(document):
    named = re.findall(r"`configcache ([a-z][a-z-]*)", document.read_text(encoding="utf-8"))

    assert set(named) <= set(VERBS)
