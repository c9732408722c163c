"""Text for a terminal, made of what anybody may have written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from configcache_worker.letters.text import printable

__all__ = ["counted", "moment", "printable", "table"]


def moment(milliseconds: int | None) -> str:
    """Unix *milliseconds* as UTC to the second, ``-`` for none. What is no date is shown as the number it is."""
    if milliseconds is None:
        return "-"
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return str(milliseconds)


def table(heading: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """
    Lines of a table with *heading*, its columns two spaces apart.

    Args:
        heading: One for each column.
        rows: Cells of one line each.
        right: Numbers of the columns to align at their right.
    """
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def counted(number: int, noun: str) -> str:
    """``1 letter``, ``2,000 letters``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
