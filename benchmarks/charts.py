"""Bar charts as SVG: pure text, and no more of the format than bars need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_WIDTH: Final = 760
_LABELS: Final = 230
_VALUES: Final = 130
_ROW: Final = 26
_BAR: Final = 16
_TOP: Final = 56
_COLOURS: Final = ("#2f6f9f", "#c98a2b", "#7d9c5c")
_FONT: Final = "font-family='system-ui, sans-serif'"


def bars(title: str, unit: str, rows: Mapping[str, Sequence[float]], *, parts: Sequence[str] = ()) -> str:
    """
    A chart of horizontal bars from zero, on a linear scale.

    Args:
        title: Above all.
        unit: Behind every bar's total.
        rows: Label to the lengths of the bar's parts.
        parts: What these are, for the legend; empty if a bar has one part.
    """
    longest = max((sum(lengths) for lengths in rows.values()), default=0.0) or 1.0
    scale = (_WIDTH - _LABELS - _VALUES) / longest
    height = _TOP + _ROW * len(rows) + 12
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{height}' viewBox='0 0 {_WIDTH} {height}'>",
        f"<rect width='{_WIDTH}' height='{height}' fill='white'/>",
        _text(12, 24, title, size=16, weight="bold"),
        *_legend(parts),
    ]
    for number, (label, lengths) in enumerate(rows.items()):
        top = _TOP + _ROW * number
        lines.append(_text(_LABELS - 8, top + _BAR - 3, label, anchor="end"))
        left = float(_LABELS)
        for colour, length in zip(_COLOURS, lengths, strict=False):
            lines.append(_box(left, top, length * scale, colour))
            left += length * scale
        lines.append(_text(left + 6, top + _BAR - 3, f"{number_text(sum(lengths))} {unit}"))
    return "\n".join([*lines, "</svg>", ""])


def number_text(value: float) -> str:
    """*value* with three figures or so: ``131,000``, ``4.2``."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _legend(parts: Sequence[str]) -> list[str]:
    lines = []
    for number, (colour, part) in enumerate(zip(_COLOURS, parts, strict=False)):
        left = _LABELS + 110 * number
        lines += [_box(left, 34, 12, colour, height=12), _text(left + 18, 44, part)]
    return lines


def _box(left: float, top: float, width: float, colour: str, *, height: int = _BAR) -> str:
    return f"<rect x='{left:.1f}' y='{top}' width='{width:.1f}' height='{height}' fill='{colour}'/>"


def _text(
    left: float, base: float, text: str, *, size: int = 13, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f"<text x='{left:.1f}' y='{base}' {_FONT} font-size='{size}' font-weight='{weight}'"
        f" text-anchor='{anchor}' fill='#222'>{escape(text)}</text>"
    )
