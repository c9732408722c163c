"""
The trace a command belongs to, as the headers ``traceparent`` and ``tracestate`` of its message (W3C Trace Context).

Who traces, and with what, is the producer's business; here the two are only carried, and said what a publisher asks of a
tracer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol

__all__ = ["Tracer", "headers"]

# Version 00; a later version may append fields. Ids of zeros are not valid (W3C Trace Context, section 3.2.2).
_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[\x21-\x7e]*)?"
)
_TRACESTATE: Final = re.compile(r"[\x20-\x7e]{1,512}")


class Tracer(Protocol):
    """Follows what a publisher does. :class:`configcache.spans.SendSpans` is one."""

    def sending(
        self, traceparent: str | None, tracestate: str | None
    ) -> AbstractContextManager[Mapping[str, str]]:
        """
        Around one publish: all its attempts, and the error that it may end with. Gives the headers to send.

        Args:
            traceparent: The trace that the caller has named; where it names none, the current one counts.
            tracestate: The vendors' part of it.
        """
        ...


def headers(traceparent: str | None, tracestate: str | None) -> dict[str, str]:
    """
    The headers to send: none where *traceparent* is malformed, for a trace is never worth a failed publish.

    *tracestate* goes with a traceparent or not at all.
    """
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return {}
    if tracestate is None or not _TRACESTATE.fullmatch(tracestate):
        return {"traceparent": traceparent}
    return {"traceparent": traceparent, "tracestate": tracestate}
