"""The contract on the command line, offline: what a producer's build runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from configcache.errors import Reason
from configcache_worker.__main__ import main

GOOD = b'{"Application":"WebClient","Instance":"Web","AssociateId":42}\n'


@pytest.fixture
def stdin(monkeypatch):
    """Puts bytes on standard input."""

    def stdin(body):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))

    return stdin


def lines(capsys):
    """What was printed where nothing failed."""
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.splitlines()


def complaint(capsys):
    """What was said where something did, without the program's name."""
    printed = capsys.readouterr()
    assert printed.out == ""
    return [line.removeprefix("configcache contracts: ") for line in printed.err.splitlines()]


@pytest.mark.parametrize(
    ("body", "whose"),
    [
        (GOOD, "associate 42"),
        (b'{"Application":"WebClient","Instance":"Web","ForAllAssociates":true}', "all associates"),
    ],
)
def test_what_an_accepted_message_would_clear_is_told(capsys, stdin, body, whose):
    stdin(body)

    assert main(["contracts", "check"]) == 0

    assert lines(capsys) == [f"accepted: clear WebClient / Web for {whose}"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.INVALID_JSON),
        (b"\xff", Reason.INVALID_UTF_8),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b'{"Application":"A","Instance":"I"}', Reason.MISSING_ASSOCIATE),
        (b'{"Application":"A","Instance":"I","AssociateId":4.2e1}', Reason.INVALID_ASSOCIATE_ID),
        (b'{"Application":"A","Instance":"I","AssociateId":1}' + b" " * 65_536, Reason.BODY_TOO_LARGE),
    ],
)
def test_a_refused_message_gets_the_reason_of_its_dead_letter(capsys, stdin, body, reason):
    stdin(body)

    assert main(["contracts", "check"]) == 1

    assert complaint(capsys)[0].startswith(f"{reason.value}: ")


def test_the_text_tells_what_was_meant_and_why_it_is_an_error(capsys, stdin):
    stdin(b'{"Application":"A","Instance":"I","ForAllAssociate":true}')

    assert main(["contracts", "check"]) == 1

    assert complaint(capsys) == [
        "unknown-property: unknown property ForAllAssociate, did you mean ForAllAssociates?",
        Reason.UNKNOWN_PROPERTY.meaning,
    ]


def test_the_body_may_come_from_a_file(capsys, tmp_path):
    (tmp_path / "body.json").write_bytes(GOOD)

    assert main(["contracts", "check", "--file", str(tmp_path / "body.json")]) == 0

    assert lines(capsys) == ["accepted: clear WebClient / Web for associate 42"]


def test_a_file_that_is_not_there_is_wrong_usage(capsys):
    assert main(["contracts", "check", "--file", "absent.json"]) == 2

    assert complaint(capsys) == ["absent.json can't be read: No such file or directory"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--type", "ClearTheCache"], Reason.WRONG_MESSAGE_TYPE),
        (["--content-type", "text/xml"], Reason.UNSUPPORTED_CONTENT_TYPE),
        (["--content-encoding", "gzip"], Reason.UNSUPPORTED_CONTENT_ENCODING),
    ],
)
def test_properties_of_the_message_are_checked_too(capsys, stdin, options, reason):
    stdin(GOOD)

    assert main(["contracts", "check", *options]) == 1

    assert complaint(capsys)[0].startswith(f"{reason.value}: ")


def test_the_properties_of_a_real_producer_are_accepted(stdin):
    stdin(GOOD)

    options = ["--type", "ClearConfigurationCache", "--content-type", "application/json; charset=utf-8"]

    assert main(["contracts", "check", *options]) == 0


def test_every_reason_is_listed_with_its_meaning(capsys):
    assert main(["contracts", "reasons"]) == 0

    printed = lines(capsys)
    assert [line for line in printed if not line.startswith(" ")] == [reason.value for reason in Reason]
    assert " ".join(line.strip() for line in printed) == " ".join(
        f"{reason} {reason.meaning}" for reason in Reason
    )


@pytest.mark.parametrize("arguments", [[], ["chek"], ["check", "--typ", "x"], ["reasons", "all"]])
def test_wrong_usage_is_2(capsys, arguments):
    assert main(["contracts", *arguments]) == 2

    assert "error: " in capsys.readouterr().err


def test_the_base_install_is_enough():
    hidden = ["asyncpg", "structlog", "tenacity", "pydantic_settings"]
    outcome = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
            "from configcache_worker.__main__ import main\n"
            "sys.exit(main(['contracts', 'check']))",
        ],
        input=GOOD,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert (outcome.returncode, outcome.stderr) == (0, b"")
