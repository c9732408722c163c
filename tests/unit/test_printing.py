"""Text for a terminal, whoever wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configcache_worker.cli.dead_letters.showing import describe
from configcache_worker.cli.printing import counted, moment, printable, table
from configcache_worker.letters.letter import read_letter
from tests.letters import NOW_MS, a_letter


@given(st.text())
def test_nothing_reaches_a_terminal_that_it_would_obey(text):
    assert printable(text).isprintable()


def test_what_shows_as_itself_stays():
    assert printable("Zürich 東京 \\ 'q'") == "Zürich 東京 \\ 'q'"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb", "a\\nb"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("\x7f", "\\x7f"),
    ],
)
def test_what_does_not_is_escaped(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(NOW_MS, "2023-11-14 22:13:20"), (None, "-"), (2**63, str(2**63)), (10**400, str(10**400))],
)
def test_a_moment_is_shown_in_utc_and_nonsense_as_it_is(milliseconds, shown):
    assert moment(milliseconds) == shown


def test_columns_of_a_table_are_as_wide_as_they_must_be():
    assert table(["A", "NUMBER"], [["long", "7"], ["b", "10"]], right=[1]) == [
        "A     NUMBER",
        "long       7",
        "b         10",
    ]


def test_counts_agree_with_their_noun():
    assert (counted(1, "letter"), counted(0, "letter"), counted(2000, "letter")) == (
        "1 letter",
        "0 letters",
        "2,000 letters",
    )


@given(st.binary(max_size=60), st.text(max_size=20), st.text(max_size=20))
def test_a_letter_is_described_in_lines_that_a_terminal_can_show(body, name, value):
    letter = read_letter(a_letter(body, detail=value, app_id=value[:9], headers={name[:9] or "k": value}))

    assert all(line.isprintable() for line in describe(letter, full=False))


def test_a_long_body_is_cut_between_characters_with_a_notice():
    body = "ü".encode() * 3000
    lines = list(describe(read_letter(a_letter(b"x" + body)), full=False))

    assert "    x" + "ü" * 2047 in lines
    assert "    … (1,906 bytes more; --full shows all)" in lines


def test_in_full_all_of_it_is_shown():
    lines = list(describe(read_letter(a_letter(b"x" * 9000, headers={"k": "v" * 900})), full=True))

    assert "    " + "x" * 9000 in lines
    assert any(line.endswith("v" * 900) for line in lines)
