"""
Publishers for tests, in memory: they keep what is published, and fail like the real ones where they are told to.

Everything but the broker is the real publisher: its arguments, its retries, ``publish_many`` and the errors.
"""

from __future__ import annotations

import asyncio
import enum
from types import TracebackType
from typing import NamedTuple, Self

from configcache import blocking, publisher, wire
from configcache.command import ClearConfigurationCache
from configcache.errors import BrokerUnavailable, PublishError, Refused, Unroutable
from configcache.retry import Retries
from configcache.trace import Tracer

__all__ = ["BlockingRecordingPublisher", "Failure", "RecordingPublisher"]

_SET_UP = "run `configcache topology` once to create what is missing"
_NO_CONFIRM = (
    "the broker did not confirm the command within 5 s; it may be blocked by an alarm, or unreachable"
)


class _Answer(NamedTuple):
    kind: type[PublishError]
    text: str
    is_queued: bool = False
    """Whether the command is in the queue all the same."""


class Failure(enum.Enum):
    """What can happen to a publish, with the error and the words of the real publisher."""

    UNROUTABLE = _Answer(Unroutable, f"no queue is bound to exchange 'configuration'; {_SET_UP}")
    NO_EXCHANGE = _Answer(Refused, f"NOT_FOUND - no exchange 'configuration' in vhost '/'; {_SET_UP}")
    NO_PERMISSION = _Answer(
        Refused,
        "ACCESS_REFUSED - access to exchange 'configuration' in vhost '/' refused for user 'user'; "
        "the user needs write permission on that exchange",
    )
    QUEUE_FULL = _Answer(Refused, "the broker refused the message (nack): its queue is full or has no leader")
    UNREACHABLE = _Answer(
        BrokerUnavailable,
        "no connection within 5 s; the last attempt: cannot connect to the broker at 127.0.0.1:5672: connection refused",
    )
    SILENT = _Answer(BrokerUnavailable, _NO_CONFIRM)
    """Frozen, blocked, or cut off; the command is not in the queue."""
    CONFIRM_LOST = _Answer(BrokerUnavailable, _NO_CONFIRM, is_queued=True)
    """The same to whoever publishes, but the command is in the queue."""

    def error(self) -> PublishError:
        """A new error as the real publisher raises it, but at once: no timeout passes."""
        return self.value.kind(self.value.text)


class RecordingPublisher(publisher.Publisher):
    """
    A publisher whose broker is the list :attr:`commands`. As the real one, it wants to be used in ``async with``::

        async with RecordingPublisher() as publisher:
            await save_layout(publisher, ...)
        assert publisher.commands == [ClearConfigurationCache.for_all("WebClient", "Web")]
    """

    def __init__(
        self,
        *,
        url: str = "amqp://in-memory/",
        timeout_s: float = 5.0,
        app_id: str | None = None,
        retries: Retries | None = None,
        max_in_flight: int = 500,
        tracer: Tracer | None = None,
    ) -> None:
        super().__init__(
            url=url,
            timeout_s=timeout_s,
            app_id=app_id,
            retries=retries or Retries(),
            max_in_flight=max_in_flight,
            tracer=tracer,
        )
        self.commands: list[ClearConfigurationCache] = []
        """What is in the queue, in the order in which it came."""
        self.traces: list[dict[str, str]] = []
        """The trace headers of each of them; empty where there was no trace."""
        self._is_open = False
        self._failure: Failure | None = None
        self._times = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {len(self.commands)} commands>"

    def open(self) -> None:
        """What ``async with`` does at its beginning, for a test that has none."""
        self._is_open = True

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closed = True

    def fail(self, failure: Failure, *, times: int | None = None) -> None:
        """Fail from now on; or so many attempts, and then work again."""
        self._failure, self._times = failure, -1 if times is None else times

    def work(self) -> None:
        """Work from now on."""
        self._times = 0

    @property
    def is_connected(self) -> bool:
        """Whether it would work now, as far as a connection goes."""
        return not self._is_closed and not (self._times and self._failure is Failure.UNREACHABLE)

    async def wait_connected(self) -> None:
        """Return at once: what would be waited for is the test's to decide."""
        self._check_open()
        if self._is_closed:
            await asyncio.sleep(
                0
            )  # as the real one: whoever asks again and again leaves the others their turn
            raise BrokerUnavailable("the publisher has been stopped")

    def _check_open(self) -> None:
        if not self._is_open:
            super()._check_open()

    async def _attempt(self, body: bytes, context: dict[str, str]) -> None:
        await self.wait_connected()
        failure = self._failure if self._times else None
        if failure is not None:
            self._times -= 1
        if failure is None or failure.value.is_queued:
            self.commands.append(wire.decode(body, wire.COMMAND_PROPERTIES))
            self.traces.append(context)
        if failure is not None:
            await asyncio.sleep(0)
            raise failure.error()


class BlockingRecordingPublisher(blocking.Publisher):
    """The same for code without an event loop. Use it in a ``with``, as the real one."""

    _wrapped: type[publisher.Publisher] = RecordingPublisher
    _publisher: RecordingPublisher

    def __init__(self, *, url: str = "amqp://in-memory/", retries: Retries | None = None) -> None:
        super().__init__(url=url, retries=retries)

    @property
    def commands(self) -> list[ClearConfigurationCache]:
        """What is in the queue, in the order in which it came."""
        return self._publisher.commands

    def fail(self, failure: Failure, *, times: int | None = None) -> None:
        """Fail from now on; or so many attempts, and then work again."""
        self._publisher.fail(failure, times=times)

    def work(self) -> None:
        """Work from now on."""
        self._publisher.work()
