"""A report for machines. Keys are only ever added; docs/operations.md describes them."""

from __future__ import annotations

import json

from configcache_worker.status.judgement import Report


def in_json(report: Report, *, indent: int | None = 2) -> str:
    """*report* as one JSON object; on one line where *indent* is None."""
    parts = {
        part.name: {
            "verdict": part.verdict,
            "text": part.text,
            "reasons": list(part.reasons),
            **part.facts,
        }
        for part in report.parts
    }
    document = {"verdict": report.verdict, "at": report.at.isoformat(timespec="seconds"), "parts": parts}
    return json.dumps(document, indent=indent, ensure_ascii=False)
