"""
Publish without an event loop: for scripts, and for services in Django, Flask and the like.

The same publisher with the same errors, on a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from configcache import outbox
from configcache import publisher as asynchronous
from configcache.errors import BrokerUnavailable, NotAllPublished, PublishError, Refused, Unroutable
from configcache.retry import Retries

if TYPE_CHECKING:
    from configcache.command import ClearConfigurationCache
    from configcache.trace import Tracer

__all__ = [
    "BrokerUnavailable",
    "Connection",
    "NotAllPublished",
    "PublishError",
    "Publisher",
    "Refused",
    "Retries",
    "Unroutable",
    "enqueue",
]


class Publisher:
    """
    Publishes commands over one connection, which a thread keeps alive in the background::

        with Publisher(url="amqp://user:password@broker/vhost") as publisher:
            publisher.publish(ClearConfigurationCache.for_all("WebClient", "Web"))

    Keep one for the life of the process; any number of threads may publish at once. Where ``with`` does not fit, call
    :meth:`start` and :meth:`close`. A server that forks its workers starts one in each, after the fork.

    Args: as for :class:`configcache.Publisher`.

    Raises:
        ValueError: The URL is none, a number is not positive, or *app_id* is longer than 255 bytes.
    """

    _wrapped: type[asynchronous.Publisher] = asynchronous.Publisher

    def __init__(
        self,
        *,
        url: str,
        timeout_s: float = 5.0,
        app_id: str | None = None,
        retries: Retries | None = None,
        max_in_flight: int = 500,
        tracer: Tracer | None = None,
    ) -> None:
        self._publisher = self._wrapped(
            url=url,
            timeout_s=timeout_s,
            app_id=app_id,
            retries=retries or Retries(),
            max_in_flight=max_in_flight,
            tracer=tracer,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._closed = False
        # Held for a moment, to schedule or to close. Reentrant, since the handler of a signal may publish.
        self._scheduling = threading.RLock()

    def __repr__(self) -> str:
        return f"<blocking {self._publisher!r}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Begin to connect; waits for nothing. To be called once."""
        if self._thread is not None:
            raise RuntimeError("the publisher has been started already")
        self._loop = asyncio.new_event_loop()
        # A daemon: a script that forgets to close may end all the same. What was published was confirmed.
        self._thread = threading.Thread(target=self._turn, name="configcache publisher", daemon=True)
        self._process = os.getpid()
        self._thread.start()
        self._wait(self._publisher.__aenter__())

    def close(self) -> None:
        """Close the connection and end the thread. Safe to repeat."""
        if self._loop is None or self._thread is None or self._process != os.getpid():
            return
        with self._scheduling:
            if self._closed:
                return
            self._closed = True
            stopping = asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        _wait_for(stopping)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def publish(
        self,
        command: ClearConfigurationCache,
        *,
        traceparent: str | None = None,
        tracestate: str | None = None,
    ) -> None:
        """
        Publish *command*. When this returns, the broker has it on disk, in a queue.

        Arguments and errors are those of :meth:`configcache.Publisher.publish`.
        """
        self._wait(self._publisher.publish(command, traceparent=traceparent, tracestate=tracestate))

    def publish_many(self, commands: Iterable[ClearConfigurationCache]) -> None:
        """
        Publish *commands*, many at a time. When this returns, the broker has all of them.

        All of *commands* are read first, in the thread that calls: a generator may use what belongs to that thread, such
        as a database connection of Django's or a request of Flask's.

        Errors are those of :meth:`configcache.Publisher.publish_many`.
        """
        self._wait(self._publisher.publish_many(list(commands)))

    async def _stop(self) -> None:
        await self._publisher.__aexit__(None, None, None)
        # Other threads may be waiting: whoever is still here is told, and not left to wait for a loop that has stopped.
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _turn(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _wait(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Run *coroutine* on the thread and wait for it, unless it could never run there."""
        try:
            self._check_usable()
            future = self._scheduled(coroutine)
        except Exception:
            coroutine.close()
            raise
        _wait_for(future)

    def _check_usable(self) -> None:
        # Before the lock, which another thread may have held when this process was forked.
        if self._thread is None:
            raise RuntimeError("use the publisher within `with`, or call start() first")
        if self._process != os.getpid():
            raise RuntimeError(
                "the publisher was started before this process was forked; start one after the fork"
            )
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking publisher can't be waited for on its own thread")

    def _scheduled(self, coroutine: Coroutine[Any, Any, object]) -> Future[object]:
        """Hand *coroutine* to the thread. What comes before a close is seen by :meth:`_stop`, and what comes after is refused."""
        assert self._loop is not None
        with self._scheduling:
            if self._closed:
                raise _stopped()
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def _wait_for(future: Future[Any]) -> None:
    try:
        future.result()
    except CancelledError as error:
        raise _stopped() from error
    except BaseException:
        future.cancel()  # KeyboardInterrupt, or whatever else took the caller away
        raise


class Connection(Protocol):
    """What :func:`enqueue` needs: psycopg's ``Connection``, any cursor of the DB-API, Django's among them."""

    # Not str: psycopg's own annotation wants literals, and a type checker would refuse its connections.
    def execute(self, query: Any, /) -> object:  # noqa: ANN401
        """Execute one statement, a ``str`` without parameters."""
        ...


def enqueue(connection: Connection, command: ClearConfigurationCache, *, schema: str | None = None) -> None:
    """
    Ask for *command* in the transaction that is open on *connection*.

    See :func:`configcache.outbox.enqueue`, whose arguments and errors these are.
    """
    connection.execute(outbox.statement(command, schema=schema))


def _stopped() -> BrokerUnavailable:
    return BrokerUnavailable("the publisher has been stopped")
