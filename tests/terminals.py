"""Pseudo-terminals, for what behaves otherwise when somebody types."""

from __future__ import annotations

import pty

import pytest


def open_terminal() -> tuple[int, int]:
    """Open a new pseudo-terminal: the typist's end and the program's. Skips the test where the machine has none."""
    try:
        return pty.openpty()
    except OSError as error:  # such as a root without /dev/pts
        pytest.skip(f"no terminal to type on: {error}")
