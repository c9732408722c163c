"""The program's command line: help, exit codes, and one readable line for whatever goes wrong."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import types

import argon2
import pytest
import structlog

from configcache_worker.__main__ import VERBS, main
from configcache_worker.rabbitmq.declare import Report

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
    return process([sys.executable, "-c", script], stdout=stdout)


def process(command: list[str], *, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    environ = {**os.environ, **TEST_URLS, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(command, env=environ, text=True, stdout=stdout, stderr=subprocess.PIPE)


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0

    out = capsys.readouterr().out
    assert re.findall(r"^    ([\w-]+) {2,}\w", out, re.MULTILINE) == list(VERBS)


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
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(capsys, arguments):
    assert main(arguments) == 2

    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "must"),
    [
        ("--timeout", "abc", "a number of seconds greater than 0"),
        ("--timeout", "0", "a number of seconds greater than 0"),
        ("--timeout", "nan", "a number of seconds greater than 0"),
        ("--associate", "abc", "a whole number from 1 to 9223372036854775807"),
        ("--associate", "1.0", "a whole number from 1 to 9223372036854775807"),
    ],
)
def test_a_number_that_is_none_is_told_with_what_it_must_be(capsys, option, value, must):
    assert main([*PUBLISH, option, value]) == 2

    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"configcache publish: error: argument {option}: must be {must}, not {value}"


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        (["worker"], ["broker.url", "database.url"]),
        (["relay"], ["broker.url", "database.url"]),
        (["gateway"], ["broker.url", "database.url"]),
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


@pytest.mark.parametrize("content", [None, "[worker", "[brokr]"])
def test_settings_prints_no_table_where_the_file_is_wrong(capsys, tmp_path, content):
    if content:
        (tmp_path / "x.toml").write_text(content)

    assert main(["settings", "--config", "x.toml"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "x.toml" in printed.err


def test_what_is_missing_may_be_put_into_the_file_that_was_named(capsys, tmp_path):
    (tmp_path / "x.toml").touch()

    assert main(["topology", "--config", "x.toml"]) == 2

    assert "url under [broker] in x.toml" in capsys.readouterr().err


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
        (["migrate"], "no connection to PostgreSQL at 127.0.0.1:1: connection refused\n"),
        (["migrate", "--dry-run"], "no connection to PostgreSQL at 127.0.0.1:1: connection refused\n"),
        (["topology"], "cannot connect to the broker at 127.0.0.1:1: connection refused\n"),
        (["topology", "--check"], "cannot connect to the broker at 127.0.0.1:1: connection refused\n"),
    ],
)
def test_a_server_that_is_not_there_is_a_failure_in_one_line(capsys, verb, words):
    assert main(verb) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err
    assert "hidden" not in printed.err


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


@pytest.mark.usefixtures("urls")
def test_topology_does_not_say_that_all_exists_where_something_could_not_be_looked_at(capsys, monkeypatch):
    async def report(*_, **__):
        return Report(hidden=["configuration"], uncompared=["configuration", "configuration.events"])

    monkeypatch.setattr("configcache_worker.cli.topology._report", report)

    assert main(["topology", "--check"]) == 0

    assert capsys.readouterr().out == (
        "nothing is missing that this user may look at (not at configuration); its arguments could not be "
        "compared: this user lacks the configure right on configuration, configuration.events\n"
    )


def test_an_ipv6_address_is_told_in_brackets(capsys, monkeypatch):
    monkeypatch.setenv("CONFIGCACHE_BROKER__URL", "amqp://[::1]:1/")

    assert main(["topology"]) == 1

    assert "the broker at [::1]:1: " in capsys.readouterr().err


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
    app.build_worker = lambda settings, traces: FakeWorker(app.at_start)
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
        "app.StartRefused, app.build_worker = KeyError, lambda settings, traces: Worker()\n"
        "main(['worker'])\n"
    ) as process:
        _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "Traceback" not in err


def test_a_refused_start_is_one_log_line(app, capsys, monkeypatch):
    def refuse():
        raise StartRefused("queue x is different")

    app.at_start = refuse
    monkeypatch.setenv("CONFIGCACHE_TELEMETRY__LOG_FORMAT", "json")

    assert main(["worker"]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert (json.loads(line)["event"], json.loads(line)["error"]) == (
        "worker.refused",
        "queue x is different",
    )


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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"opentelemetry": None},
            'telemetry.traces needs the extra [telemetry]: pip install "clear-configuration-cache',
        ),
        ({}, "telemetry.traces: a variable OTEL_… of the environment is wrong: "),
    ],
)
@pytest.mark.parametrize("verb", ["worker", "relay", "gateway"])
def test_traces_that_cannot_be_made_are_wrong_usage_in_one_line(
    verb, changes, words, urls, capsys, monkeypatch
):
    for module in ("configcache_worker.observe.traces", "configcache.spans"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    for module, replacement in changes.items():
        monkeypatch.setitem(sys.modules, module, replacement)
    monkeypatch.setenv("CONFIGCACHE_TELEMETRY__TRACES", "true")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")

    assert main([verb]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"configcache {verb}: {words}")


def test_the_demo_starts_nothing_before_it_says_that_its_extra_is_missing():
    with python(
        "import sys; sys.modules['pika'] = None\n"
        "from configcache_worker.local.servers import Servers\n"
        "Servers.start = lambda self: print('started')\n"
        "from configcache_worker.__main__ import main\n"
        "sys.exit(main(['demo']))"
    ) as demo:
        out, err = demo.communicate(timeout=20)

    assert (demo.returncode, out) == (2, "")
    assert err == (
        'configcache demo needs the extra [testing]: pip install "clear-configuration-cache[testing]"\n'
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


RUN = "import sys; from configcache_worker.__main__ import main; sys.exit(main(sys.argv[1:]))"
PUBLISHES = (
    "import sys; from configcache import Publisher; from configcache_worker.__main__ import main\n"
    "async def publish(self, command): pass\n"
    "Publisher.publish = publish; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.parametrize(
    ("script", "arguments", "failure"),
    [
        (RUN, ["settings"], "configcache settings: can't write the output"),
        (RUN, ["contracts", "reasons"], "configcache contracts: can't write the output"),
        (
            PUBLISHES,
            [*PUBLISH, "--for-all-associates"],
            "configcache publish: published, but can't write the output",
        ),
    ],
)
@pytest.mark.parametrize(
    ("redirection", "reason"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")]
)
def test_output_that_cannot_be_written_is_a_failure_in_one_line(
    script, arguments, failure, redirection, reason
):
    with process(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", script, *arguments]
    ) as it:
        _, err = it.communicate(timeout=20)

    assert (it.returncode, err) == (1, f"{failure}: {reason}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["publish", "--help"], ["--version"], []])
def test_a_manual_that_cannot_be_written_is_a_failure_in_one_line(arguments):
    with process(["sh", "-c", 'exec "$@" >/dev/full', "sh", sys.executable, "-c", RUN, *arguments]) as it:
        _, err = it.communicate(timeout=20)

    assert it.returncode == 1
    assert re.fullmatch(r"configcache( publish)?: can't write the output: No space left on device\n", err)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("arguments", [["settings", "--config", "absent.toml"], ["nonsense"]])
def test_a_complaint_that_cannot_be_written_leaves_the_exit_code(redirection, arguments):
    command = [sys.executable, "-c", RUN, *arguments]
    with process(["sh", "-c", f'exec "$@" {redirection}', "sh", *command]) as it:
        out, _ = it.communicate(timeout=20)

    assert (it.returncode, out) == (2, "")


def test_a_message_from_a_closed_input_is_wrong_usage():
    command = [sys.executable, "-c", RUN, "contracts", "check"]
    with process(["sh", "-c", 'exec "$@" <&-', "sh", *command]) as it:
        _, err = it.communicate(timeout=20)

    assert it.returncode == 2
    assert err == "configcache contracts: standard input can't be read: it is closed\n"


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


def test_the_hash_of_a_password_is_printed_and_nothing_else(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Tje0\n"))

    assert main(["gateway", "--hash-password"]) == 0

    (line,) = capsys.readouterr().out.splitlines()
    assert argon2.PasswordHasher().verify(line, "Tje0")


def test_an_empty_password_is_not_hashed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))

    assert main(["gateway", "--hash-password"]) == 2

    assert capsys.readouterr().err == "configcache gateway: a password is needed on standard input\n"
