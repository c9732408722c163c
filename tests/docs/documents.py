"""The documents of the project, and the fenced code blocks in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"( *)(`{3,}|~{3,})\s*(\w*)")


class Block(NamedTuple):
    """A fenced code block."""

    document: Path
    line: int
    language: str
    """The first word behind the fence; empty if there is none."""
    text: str

    def __str__(self):
        return f"{self.document.relative_to(PROJECT)}:{self.line}-{self.language or 'output'}"


def blocks_of(document):
    """Every fenced block of *document*."""
    lines = document.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        first = number
        indent, fence, language = opening.groups()
        while not lines[number].strip().startswith(fence):
            number += 1
        text = "\n".join(line.removeprefix(indent) for line in lines[first:number])
        yield Block(document, first, language, text + "\n")
        number += 1


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def table_rows(document, heading, *, table=0):
    """The rows of the *table*-th table under *heading*, each as the tuple of its cells."""
    text = document.read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", section + "\n", re.MULTILINE)
    rows = tables[table].splitlines()[2:]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]) for row in rows]
