"""What is seen of a system becomes verdicts, a screen and JSON; and watching ends as it should. No servers."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console

from configcache_worker.status import Thresholds, Verdict, judged
from configcache_worker.status.document import in_json
from configcache_worker.status.judgement import PARTS
from configcache_worker.status.screen import in_text, screen
from configcache_worker.status.sights import (
    Broker,
    Cache,
    Commands,
    Database,
    Letters,
    Outbox,
    System,
    Unseen,
)
from tests.terminals import open_terminal

WELL = System(
    at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    broker=Broker("RabbitMQ", "4.2.1", "broker:5672", "/", "operator"),
    commands=Commands(waiting=0, consumers=2),
    letters=Letters(waiting=0, looked_at=0, by_reason={}),
    database=Database("17.2", "database:5432", "app", "operator", "writable"),
    cache=Cache('"public"."configuration_cache"', 1_204, "exact", building=3, expired=0),
    outbox=Outbox(0, "exact", None),
)
AWAY = Unseen("connection refused", is_fault=True)


def judge(**changed):
    return judged(dataclasses.replace(WELL, **changed), Thresholds())


def part(report, name):
    (found,) = [part for part in report.parts if part.name == name]
    return found


def test_a_system_that_is_well_has_a_line_for_each_part_and_nothing_to_say():
    report = judge()

    assert in_text(report).splitlines() == [
        "configcache status, 2026-01-02 03:04:05 UTC: ok",
        "",
        "broker        ok  RabbitMQ 4.2.1 at broker:5672, virtual host /, as operator",
        "commands      ok  0 commands wait, 2 workers consume",
        "dead-letters  ok  none",
        "database      ok  PostgreSQL 17.2 at database:5432, database app, as operator: writable",
        'cache         ok  "public"."configuration_cache": 1,204 rows, 3 are being built',
        "outbox        ok  nothing waits for a relay",
    ]
    assert not report.verdict.needs_somebody


@pytest.mark.parametrize(
    ("changed", "name", "verdict", "words"),
    [
        ({"commands": Commands(5, 0)}, "commands", "broken", "no worker consumes"),
        ({"commands": Commands(10_000, 1)}, "commands", "ok", ""),
        ({"commands": Commands(10_001, 1)}, "commands", "attention", "paused, or too few"),
        ({"letters": Letters(1, 1, {"invalid-json": 1})}, "dead-letters", "attention", "replay or discard"),
        (
            {"letters": Letters(1, None, None, "user w may not")},
            "dead-letters",
            "attention",
            "user w may not",
        ),
        (
            {"database": Database("17", "d", "a", "o", "standby")},
            "database",
            "broken",
            "commands are held until",
        ),
        (
            {"database": Database("17", "d", "a", "o", "read-only")},
            "database",
            "broken",
            "commands are held until",
        ),
        ({"cache": Cache("t", 1, "exact", 0, 0, "lock timeout")}, "cache", "broken", "lock timeout"),
        (
            {"cache": Cache("t", None, None, None, None, None, ("no right",))},
            "cache",
            "unknown",
            "no right",
        ),
        ({"outbox": Outbox(7, "exact", 60.0)}, "outbox", "ok", ""),
        ({"outbox": Outbox(7, "exact", 61.0)}, "outbox", "attention", "no relay runs"),
        ({"broker": AWAY}, "broker", "broken", "connection refused"),
        ({"outbox": Unseen("no right")}, "outbox", "unknown", "no right"),
    ],
)
def test_what_is_seen_decides_the_verdict_and_its_reason(changed, name, verdict, words):
    found = part(judge(**changed), name)

    assert found.verdict == verdict
    assert words in " ".join(found.reasons)
    assert bool(found.reasons) == (verdict != "ok")


def test_the_worst_part_is_the_verdict_and_what_needs_somebody_is_summed_up():
    report = judge(
        broker=AWAY, commands=Unseen("no broker"), letters=Letters(1, None, None, ""), database=AWAY
    )

    assert report.verdict is Verdict.BROKEN
    assert report.summary == "broken: broker, database; attention: dead-letters"


def test_what_is_unknown_needs_nobody():
    report = judge(outbox=Unseen("no right"))

    assert report.verdict is Verdict.UNKNOWN
    assert not report.verdict.needs_somebody
    assert report.summary == ""


def test_the_most_frequent_reason_comes_first_and_a_partial_look_says_so():
    found = part(judge(letters=Letters(1_500, 1_000, {"a": 1, "invalid-json": 998, "b": 1})), "dead-letters")

    assert found.text == (
        "1,500 messages wait in clear-configuration-cache.v1.dead-letter; "
        "of the first 1,000: 998 invalid-json, 1 a, 1 b"
    )


def test_estimates_are_told_as_such():
    report = judge(
        cache=Cache("t", 2_000_000, "estimate", None, None), outbox=Outbox(100_000, "estimate", 3.0)
    )

    assert part(report, "cache").text == "t: about 2,000,000 rows"
    assert part(report, "outbox").text == "more than 100,000 rows wait, the oldest for 3 s"


def test_leases_that_have_expired_are_told_and_need_nobody():
    found = part(judge(cache=Cache("t", 9, "exact", building=1, expired=2)), "cache")

    assert (found.verdict, found.text) == (Verdict.OK, "t: 9 rows, 1 is being built, 2 leases have expired")


def test_a_reason_that_stands_in_the_table_is_not_repeated():
    lines = in_text(judge(broker=AWAY, outbox=Outbox(7, "exact", 61.0))).splitlines()

    assert sum("connection refused" in line for line in lines) == 1
    assert lines[-1].startswith("outbox: the oldest waits for more than 60 s")


def test_what_servers_say_is_no_markup():
    report = judge(broker=Broker("[red]Rabbit[/]", "1", "h:1", "/[x]", "u"))

    assert "[red]Rabbit[/] 1 at h:1, virtual host /[x], as u" in in_text(report)


def test_a_narrow_terminal_folds_the_screen_and_loses_nothing():
    console = Console(file=io.StringIO(), width=40)

    console.print(screen(judge(), footer="Ctrl-C ends"))

    shown = console.file.getvalue()
    assert max(map(len, shown.splitlines())) <= 40
    assert "Ctrl-C ends" in shown
    assert "writable" in shown


def test_the_document_has_the_same_keys_whatever_was_seen():
    def keys(report):
        return {name: set(part) for name, part in json.loads(in_json(report))["parts"].items()}

    seen = judge()
    unseen = judge(**dict.fromkeys(["broker", "commands", "letters", "database", "cache", "outbox"], AWAY))

    assert list(keys(seen)) == list(PARTS)
    assert keys(seen) == keys(unseen)


def test_the_document_holds_the_numbers_and_one_line_is_one_line():
    report = judge(letters=Letters(2, 2, {"invalid-json": 2}))

    document = json.loads(in_json(report))

    assert (document["verdict"], document["at"]) == ("attention", "2026-01-02T03:04:05+00:00")
    assert document["parts"]["dead-letters"]["by_reason"] == {"invalid-json": 2}
    assert document["parts"]["commands"] == {
        "verdict": "ok",
        "text": "0 commands wait, 2 workers consume",
        "reasons": [],
        "waiting": 0,
        "consumers": 2,
    }
    assert "\n" not in in_json(report, indent=None)


# --- watching ---------------------------------------------------------------------------------------------------------


NOBODY_THERE = {
    "CONFIGCACHE_BROKER__URL": "amqp://user:hidden@127.0.0.1:1/",
    "CONFIGCACHE_DATABASE__URL": "postgresql://user:hidden@127.0.0.1:1/app",
}


def start_watching(*arguments, **streams):
    environ = {**os.environ, **NOBODY_THERE, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    command = [sys.executable, "-m", "configcache_worker", "status", "--watch", "0.05", *arguments]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, **streams)


def read_until(terminal, words, *, timeout_s=20.0):
    """What the process writes to *terminal* until *words* have come, or it ends."""
    shown = b""
    deadline = time.monotonic() + timeout_s
    while words not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65_536)
            except OSError:  # the other side is closed
                break
    return shown


def test_ctrl_c_ends_the_watch_with_0_and_gives_the_terminal_back():
    terminal, slave = open_terminal()
    with start_watching(stdin=slave, stdout=slave) as process:
        os.close(slave)
        shown = read_until(terminal, b"Ctrl-C ends")
        process.send_signal(signal.SIGINT)
        shown += read_until(terminal, b"no such words")
        code, err = process.wait(20), process.stderr.read()
    os.close(terminal)

    other_screen, shown_again = b"\x1b[?1049h", b"\x1b[?1049l"
    assert (code, err) == (0, b"")
    assert other_screen in shown
    _, _, after = shown.rpartition(shown_again)
    assert b"refused" in after  # the last look stays
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h")  # and so does the cursor


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_for_machines_writes_a_line_for_each_look(number):
    with start_watching("--json", stdout=subprocess.PIPE) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(number)
        rest, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (0, b"")
    for line in [*lines, *rest.splitlines()]:
        assert json.loads(line)["verdict"] == "broken"
