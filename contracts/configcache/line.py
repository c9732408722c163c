"""
The socket of a connection that publishes: publishes are gathered before they go, answers are cut out of what comes.

What an answer means, and to whom, is left to ``confirms``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from configcache.frames import Answer, AnswerCutter
from configcache.stream import Stream

__all__ = ["PublishingLine"]

_SENT_AT_ONCE_BYTES: Final = 64 * 1024


class PublishingLine(Stream):
    """What a session writes to, and hears the answers from."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop)
        self.has_room = asyncio.Event()
        """Set unless what was sent waits in memory: the broker is slow, or takes nothing because an alarm is on."""
        self.has_room.set()
        self._call_soon = loop.call_soon
        self._cutter = AnswerCutter()
        self._sink: Callable[[list[Answer]], None] | None = None
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0

    @property
    def is_open(self) -> bool:
        """Whether anything may still be sent on the channel."""
        return self.is_writable and not self._cutter.is_closing

    def watch(self, channel: int, sink: Callable[[list[Answer]], None]) -> None:
        """Begin to give *sink* the answers on *channel*, as one list for each read of the socket."""
        self._sink = sink
        self.cuts_from_now()
        self._cutter.watch(channel)

    def send(self, frames: bytes, *, at_once: bool) -> None:
        """
        Send whole frames.

        Args:
            frames: What to send.
            at_once: Or else together with what else is sent in this turn of the event loop, as soon as it has ended: a
                write costs several times what a publish does.
        """
        if at_once and not self._gathered:
            self.write(frames)
            return
        if not self._gathered:
            self._call_soon(self._flush)
        self._gathered.append(frames)
        self._gathered_bytes += len(frames)
        if self._gathered_bytes > _SENT_AT_ONCE_BYTES:
            self._flush()

    def data_received(self, data: bytes) -> None:
        answers, rest = self._cutter.feed(data)
        if answers and self._sink is not None:
            self._sink(answers)
        self.pass_on(rest)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.has_room.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.has_room.set()

    def _flush(self) -> None:
        if self._gathered and self.is_open:
            self.write(b"".join(self._gathered))
        self._gathered.clear()
        self._gathered_bytes = 0
