"""The program's command line: help, exit codes, and one readable line for whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import types

import pytest
import structlog

from configcache_worker.__main__ import VERBS, main

TEST_URLS = {
    "CONFIGCACHE_BROKER__URL": "amqp://user:hidden@127.0.0.1:1/",
    "CONFIGCACHE_DATABASE__URL": "postgresql://user:hidden@127.0.0.1:1/app",
}
PUBLISH = ["publish", "--application", "WebClient", "--instance", "Web"]


@pytest.fixture(autouse=True)
def _place_without_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CONFIGCACHE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    drivers = {name: logging.getLogger(name).level for name in ("aiormq", "aio_pika")}
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, driver_level in drivers.items():
        logging.getLogger(name).setLevel(driver_level)


@pytest.fixture
def urls(monkeypatch):
    for name, value in TEST_URLS.items():
        monkeypatch.setenv(name, value)


def python(script: str, *, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """A process of its own, for what would end or upset this one."""
    environ = {**os.environ, **TEST_URLS, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environ, text=True, stdout=stdout, stderr=subprocess.PIPE
    )


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0

    out = capsys.readouterr().out
    assert re.findall(r"^    (\w+) {2,}\w", out, re.MULTILINE) == list(VERBS)


def test_no_verb_prints_the_help_and_is_wrong_usage(capsys):
    assert main([]) == 2

    assert "usage: configcache" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_is_a_small_manual(capsys, verb):
    assert main([verb, "--help"]) == 0

    out = capsys.readouterr().out
    assert f"usage: configcache {verb}" in out
    assert "exit codes:" in out


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0

    assert capsys.readouterr().out.startswith("configcache ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["worker", "--nonsense"],
        ["worker", "--conf", "x"],
        ["publish"],
        PUBLISH,
        [*PUBLISH, "--associate", "forty-two"],
        [*PUBLISH, "--associate", "42", "--for-all-associates"],
        [*PUBLISH, "--associate", "42", "--timeout", "0"],
        [*PUBLISH, "--associate", "42", "--timeout", "nan"],
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(capsys, arguments):
    assert main(arguments) == 2

    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        (["worker"], ["broker.url", "database.url"]),
        ([*PUBLISH, "--associate", "42"], ["broker.url"]),
        (["migrate"], ["database.url"]),
        (["topology"], ["broker.url"]),
        (["settings"], ["broker.url", "database.url"]),
    ],
)
def test_a_verb_asks_for_the_settings_it_uses(capsys, verb, missing):
    assert main(verb) == 2

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" is missing")[0] for line in lines] == [
        f"configcache {verb[0]}: {name}" for name in missing
    ]


def test_a_settings_file_is_named_on_the_command_line(capsys, tmp_path):
    (tmp_path / "x.toml").write_text("[broker]\nulr = 1\n")

    assert main(["worker", "--config", "x.toml"]) == 2

    assert capsys.readouterr().err == (
        "configcache worker: x.toml: broker.ulr is no setting; did you mean broker.url?\n"
    )


@pytest.mark.usefixtures("urls")
def test_settings_prints_values_and_origins_without_secrets(capsys):
    assert main(["settings"]) == 0

    out = capsys.readouterr().out
    assert re.search(
        r"^broker\.url +amqp://user:\*\*\*@127\.0\.0\.1:1/ +environment CONFIGCACHE_BROKER__URL$", out, re.M
    )
    assert re.search(r"^worker\.prefetch +5000 +default$", out, re.M)
    assert "hidden" not in out


def test_settings_prints_what_is_valid_and_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setenv("CONFIGCACHE_BROKER__URL", "amqp://rabbit/")

    assert main(["settings"]) == 2

    printed = capsys.readouterr()
    assert re.search(r"^broker\.url +amqp://rabbit/ ", printed.out, re.M)
    assert re.search(r"^database\.url +\(not set\) ", printed.out, re.M)
    assert "database.url is missing" in printed.err


@pytest.mark.usefixtures("urls")
@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ([*PUBLISH, "--for-all-associates", "--timeout", "0.2"], "not published: no connection within 0.2 s"),
        (["migrate"], "no connection to PostgreSQL"),
        (["migrate", "--dry-run"], "no connection to PostgreSQL"),
        (["topology"], "cannot connect to the broker"),
        (["topology", "--check"], "cannot connect to the broker"),
    ],
)
def test_a_server_that_is_not_there_is_a_failure_in_one_line(capsys, verb, words):
    assert main(verb) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err
    assert "hidden" not in printed.err


@pytest.mark.usefixtures("urls")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--application", "", "--instance", "Web", "--associate", "1"], "Application must not be blank"),
        (["--application", "A", "--instance", " Web", "--associate", "1"], "Instance must not begin"),
        (
            ["--application", "A", "--instance", "Web", "--associate", "0"],
            "AssociateId must be an integer from 1",
        ),
    ],
)
def test_publish_refuses_what_the_contract_refuses_in_its_words(capsys, arguments, words):
    assert main(["publish", *arguments]) == 2

    assert capsys.readouterr().err.startswith(f"configcache publish: {words}")


# --- the worker's process ---------------------------------------------------------------------------------------------


class StartRefused(Exception):
    pass


class FakeWorker:
    """Runs until stopped, or does something else first."""

    def __init__(self, at_start) -> None:
        self._at_start = at_start
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        self._at_start()
        await self._stopping.wait()

    def stop(self) -> None:
        self._stopping.set()


@pytest.fixture
def app(monkeypatch, urls):
    """Stands in for the composition root: ``app.at_start`` is what the worker does first."""
    app = types.ModuleType("configcache_worker.app")
    app.StartRefused = StartRefused
    app.at_start = lambda: None
    app.build_worker = lambda settings: FakeWorker(app.at_start)
    monkeypatch.setitem(sys.modules, "configcache_worker.app", app)
    return app


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_worker_which_ends_with_0(app, number):
    app.at_start = lambda: os.kill(os.getpid(), number)

    assert main(["worker"]) == 0


def test_a_second_signal_ends_the_worker_at_once():
    with python(
        "import asyncio, os, signal, sys, types\n"
        "from configcache_worker.__main__ import main\n"
        "class Worker:\n"
        "    async def run(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        await asyncio.Event().wait()\n"
        "    def stop(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "app = sys.modules['configcache_worker.app'] = types.ModuleType('configcache_worker.app')\n"
        "app.StartRefused, app.build_worker = KeyError, lambda settings: Worker()\n"
        "main(['worker'])\n"
    ) as process:
        _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "Traceback" not in err


def test_a_refused_start_is_one_line(app, capsys):
    def refuse():
        raise StartRefused("queue x is different")

    app.at_start = refuse

    assert main(["worker"]) == 1
    assert capsys.readouterr().err == "configcache worker: queue x is different\n"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_worker_that_dies_logs_why(app, capsys, monkeypatch, log_format):
    def die():
        raise RuntimeError("a part is broken")

    app.at_start = die
    monkeypatch.setenv("CONFIGCACHE_TELEMETRY__LOG_FORMAT", log_format)

    assert main(["worker"]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert "worker.died" in line
    assert "RuntimeError: a part is broken" in line
    if log_format == "json":
        assert "Traceback" in json.loads(line)["exception"]


# --- whatever else goes wrong -----------------------------------------------------------------------------------------


def test_nothing_but_the_standard_library_is_imported_before_a_verb_is_chosen():
    with python(
        "import sys; before = set(sys.modules); import configcache_worker.__main__\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(roots - sys.stdlib_module_names))"
    ) as process:
        out, _ = process.communicate(timeout=20)

    assert out.split() == ["configcache_worker"]


@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["worker"], "structlog"),
        ([*PUBLISH, "--associate", "1"], "pydantic_settings"),
        (["migrate"], "asyncpg"),
        (["settings"], "pydantic_settings"),
    ],
)
def test_a_missing_extra_is_told_in_one_line(arguments, module):
    with python(
        f"import sys; sys.modules[{module!r}] = None\n"
        "from configcache_worker.__main__ import main\n"
        f"sys.exit(main({arguments!r}))"
    ) as process:
        _, err = process.communicate(timeout=20)

    assert process.returncode == 2
    assert err == (
        f"configcache {arguments[0]} needs the extra [worker]: "
        'pip install "clear-configuration-cache[worker]"\n'
    )


@pytest.mark.parametrize("arguments", [["--help"], ["worker", "--help"], ["publish", "--help"]])
def test_help_works_without_any_extra(arguments):
    with python(
        "import sys; sys.modules.update(dict.fromkeys(['pydantic_settings', 'structlog', 'asyncpg']))\n"
        "from configcache_worker.__main__ import main\n"
        f"sys.exit(main({arguments!r}))"
    ) as process:
        out, _ = process.communicate(timeout=20)

    assert process.returncode == 0
    assert "usage: configcache" in out


def test_a_fault_of_the_program_is_one_line_with_its_place(app, capsys):
    del app.build_worker

    assert main(["worker"]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"configcache worker: unexpected ImportError: .*build_worker.* \(worker\.py:\d+\)", line
    )


def test_ctrl_c_leaves_no_traceback(capsys, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("configcache_worker.settings.read", interrupt)

    assert main(["settings"]) == 1
    assert capsys.readouterr().err == "configcache settings: interrupted\n"


def test_a_reader_that_went_away_leaves_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)

    with python(
        "import sys; from configcache_worker.__main__ import main; sys.exit(main(['settings']))",
        stdout=writing,
    ) as process:
        os.close(writing)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert err == ""
