"""A report for people: a table, and below it what somebody has to do. Pure."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from configcache_worker.status.judgement import Report, Verdict

_STYLES: Final[Mapping[Verdict, str]] = {
    Verdict.OK: "green",
    Verdict.UNKNOWN: "dim",
    Verdict.ATTENTION: "bold yellow",
    Verdict.BROKEN: "bold red",
}
_UNFOLDED: Final = 10_000
"""Columns, where nobody's terminal sets a limit."""


def screen(report: Report, *, footer: str = "") -> RenderableType:
    """The report as rich shows it, at any width."""
    title = Text.assemble(
        "configcache status, ",
        report.at.strftime("%Y-%m-%d %H:%M:%S %Z"),
        ": ",
        (report.verdict, _STYLES[report.verdict]),
    )
    below = [Text(), Text(footer, "dim")] if footer else []
    return Group(title, Text(), _table(report), *_reasons(report), *below)


def in_text(report: Report, *, on_terminal: bool = False) -> str:
    """The same as text: coloured and folded for this terminal, or plain and one line for each part."""
    console = Console(
        file=io.StringIO(),
        force_terminal=on_terminal,
        color_system="auto" if on_terminal else None,
        width=None if on_terminal else _UNFOLDED,
    )
    with console.capture() as captured:
        console.print(screen(report))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _table(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    for part in report.parts:
        # As Text: what servers say of themselves is no markup.
        table.add_row(Text(part.name), Text(part.verdict, _STYLES[part.verdict]), Text(part.text))
    return table


def _reasons(report: Report) -> list[RenderableType]:
    lines: list[RenderableType] = [
        Text.assemble((part.name, _STYLES[part.verdict]), f": {reason}")
        for part in report.parts
        for reason in part.reasons
        if reason != part.text  # it stands in the table
    ]
    return [Text(), *lines] if lines else []
