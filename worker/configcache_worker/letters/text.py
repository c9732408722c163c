"""Text of anybody's, made fit to be looked at. Pure; needs no driver."""

from __future__ import annotations


def printable(text: str) -> str:
    """
    *text* with everything escaped that would not show as itself.

    Control characters, line breaks, characters without width or that change the direction, lone surrogates: to a terminal
    they may be commands.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
