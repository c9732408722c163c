"""
One session at a time: open it, watch it, back off, open the next.

A session is a connection, its channels and what lives on them. When any part of it ends, the whole of it has ended and
nothing is restored: the :class:`Supervisor` builds another. What a session does is its owner's business; the publisher
and the worker each bring their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import aio_pika
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AMQPConnectionError,
    AuthenticationError,
    ProbableAuthenticationError,
)
from aiormq.connection import DEFAULT_PORTS
from aiormq.exceptions import InvalidFrameError
from yarl import URL

from configcache.errors import BrokerUnavailable
from configcache.network import describe_os_error
from configcache.retry import RetryPolicy

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection
    from aiormq.connection import TransportFactory

__all__ = [
    "DRIVER_LOGGERS",
    "BrokerUnavailable",
    "RetryPolicy",
    "SupervisedSession",
    "Supervisor",
    "addresses",
    "broker_errors",
    "cancellation_requested",
    "close_connection",
    "connect",
    "describe",
    "is_blocked",
]

DRIVER_LOGGERS: Final = ("aio_pika", "aiormq")
"""
Loggers of the AMQP driver, for a program's log configuration to silence (level above CRITICAL).

They write tracebacks about lost connections, all of which also reach us as exceptions and are reported once from there.
"""

_SYSTEM_RANDOM: Final = SystemRandom()

# The path and what follows may contain commas and slashes of their own.
_URL: Final = re.compile(r"(?P<before>[^:/?#]+://(?:[^/?#]*@)?)(?P<hosts>[^/?#]*)(?P<after>.*)", re.DOTALL)


def addresses(url: str) -> list[URL]:
    """
    Parse a broker's URL, such as ``amqps://user:password@broker.example/vhost``.

    A cluster's may name several hosts, separated by commas: ``amqp://user:password@one:5672,two:5672/vhost``.

    Returns:
        One URL for each host, in their order, otherwise alike.

    Raises:
        ValueError: It is none. The text says why, without the URL: that may contain a password.
    """
    found = _URL.fullmatch(url)
    if found is None:
        return [_address(url)]
    return [_address(found["before"] + host + found["after"]) for host in found["hosts"].split(",")]


def _address(url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError as error:
        raise ValueError(f"the broker's URL cannot be read: {error}") from None
    if parsed.scheme not in {"amqp", "amqps"} or not parsed.host:
        raise ValueError("the broker's URL must look like amqp://user:password@host:5672/vhost (or amqps://)")
    return parsed


async def connect(
    url: str,
    *,
    name: str,
    timeout_s: float,
    heartbeat_s: int,
    transport_factory: TransportFactory | None = None,
    random: Random = _SYSTEM_RANDOM,
) -> AbstractConnection:
    """
    Open a plain connection, one that does not restore itself, to the first host that takes it.

    Several hosts are tried in random order, anew each time: a dead one is the first to be tried only now and then, and
    many clients spread over those that live.

    Args:
        url: See :func:`addresses`.
        name: What the broker shows the connection as.
        timeout_s: For everything until the connection is usable, for each host.
        heartbeat_s: A broker that falls silent is noticed after about three times this.
        transport_factory: Who opens the socket, where it is not the driver itself.
        random: Where the order comes from.

    Raises:
        BrokerUnavailable: For every failure, with a readable text that names each host and contains no password.
    """
    try:
        targets = addresses(url)
    except ValueError as error:
        raise BrokerUnavailable(str(error)) from error
    failures: list[BrokerUnavailable] = []
    for target in random.sample(targets, len(targets)):
        try:
            return await _connect_to_one(
                target,
                name=name,
                timeout_s=timeout_s,
                heartbeat_s=heartbeat_s,
                transport_factory=transport_factory,
            )
        except BrokerUnavailable as failure:
            failures.append(failure)
    if len(failures) == 1:
        raise failures[0]
    raise BrokerUnavailable("; ".join(map(str, failures))) from failures[-1]


async def _connect_to_one(
    target: URL,
    *,
    name: str,
    timeout_s: float,
    heartbeat_s: int,
    transport_factory: TransportFactory | None,
) -> AbstractConnection:
    connection = aio_pika.Connection(
        target.update_query(heartbeat=heartbeat_s), client_properties={"connection_name": name}
    )
    if transport_factory is not None:
        connection.kwargs["transport_factory"] = transport_factory
    where = f"the broker at {target.host_subcomponent}:{target.port or DEFAULT_PORTS[target.scheme]}"
    with broker_errors(f"cannot connect to {where}"):
        try:
            async with asyncio.timeout(timeout_s):
                await connection.connect()
        except BaseException as error:
            await connection.close()  # nothing is open: this only keeps its finalizer quiet
            if isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error):
                # The driver tells that the broker closed the connection, but drops the broker's words.
                raise BrokerUnavailable(
                    f"{where} has no vhost {target.path.removeprefix('/')!r}, or this user has no rights there"
                ) from error
            raise
    return connection


async def close_connection(connection: AbstractConnection, *, timeout_s: float = 5.0) -> None:
    """Close *connection*, waiting no longer than *timeout_s* for a peer that may be dead. Never fails."""
    with contextlib.suppress(BrokerUnavailable), broker_errors("closing"):
        async with asyncio.timeout(timeout_s):
            await connection.close()


async def is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has told *connection* that it takes nothing from publishers: an alarm is on."""
    if connection.transport is None:
        return False
    try:
        async with asyncio.timeout(0):
            await connection.transport.connection.ready()  # returns at once, or waits until the alarm is over
    except TimeoutError:
        return True
    return False


@contextlib.contextmanager
def broker_errors(failure: str) -> Iterator[None]:
    """
    Raise whatever the driver or the network does to the block as BrokerUnavailable, "*failure*: the reason".

    That includes the driver's CancelledError when a connection dies: unless somebody did cancel this task, it is an
    error like any other, and nobody up the stack would take it for one.
    """
    try:
        yield
    except BrokerUnavailable:
        raise
    except asyncio.CancelledError as error:
        if cancellation_requested():
            raise
        raise BrokerUnavailable(f"{failure}: {describe(error)}") from error
    except CONNECTION_EXCEPTIONS as error:
        raise BrokerUnavailable(f"{failure}: {describe(error)}") from error
    except Exception as error:
        # What is pending when a connection closes without a cause gets a bare Exception from the driver.
        if type(error) is not Exception:
            raise
        raise BrokerUnavailable(f"{failure}: the connection was lost") from error


def cancellation_requested() -> bool:
    """Whether somebody did cancel the current task. The driver raises CancelledError without that, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def describe(error: BaseException | None) -> str:
    """Put an error of the driver or the network in a few words. Its own text is often empty, or a tuple."""
    match error:
        case None | asyncio.CancelledError():
            return "the broker fell silent, or the connection was closed"
        case ProbableAuthenticationError() | AuthenticationError():
            return "user name or password refused"
        case TimeoutError():
            return "no answer in time"
        case AMQPConnectionError(__cause__=OSError() as cause):  # the driver's, around the system's own
            return describe_os_error(cause)
        case OSError(strerror=str() as text) if text:
            return describe_os_error(error)
    words = " ".join(str(arg) for arg in error.args if arg is not None)
    return words or type(error).__name__


class SupervisedSession(Protocol):
    """What a supervisor needs to know of a session."""

    async def wait_ended(self) -> str:
        """Wait until any part of the session has ended, and return why; or raise it."""
        ...

    async def close(self) -> None:
        """End what is left of the session, in bounded time. Safe to repeat."""
        ...


S = TypeVar("S", bound=SupervisedSession)


class Supervisor(Generic[S]):
    """
    Keeps one session alive: opens it, waits for its end, backs off, opens the next.

    Attempts count from 1 and restart only after a session that lived longer than the longest delay: one that opens
    and dies at once is a failure too, and must not be repeated at full speed.

    Args:
        name: Of what is kept alive, for texts.
        open: Opens a session or raises.
        policy: The delays between attempts.
        on_failure: Told after each failed attempt and each ended session: the attempt's number, the seconds until
            the next, and the cause. Must not raise.
        sleep: For tests.
        clock: For tests; the event loop's by default.
    """

    def __init__(
        self,
        *,
        name: str,
        open: Callable[[], Awaitable[S]],
        policy: RetryPolicy | None = None,
        on_failure: Callable[[int, float, BaseException], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._name = name
        self._open = open
        self._policy = policy or RetryPolicy()
        self._on_failure = on_failure
        self._sleep = sleep
        self._clock = clock
        self._current: S | None = None
        self._ending: str | None = None
        self._changed = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = self._ending or ("waiting" if self._current is None else "live")
        return f"<Supervisor of {self._name}, {state}>"

    @property
    def current(self) -> S | None:
        """The live session, or None between two of them."""
        return self._current

    @property
    def has_ended(self) -> bool:
        """Whether there will be no further session."""
        return self._ending is not None

    async def session(self, *, after: S | None = None) -> S:
        """
        Wait for a live session. It may end at any moment, as sessions do.

        Args:
            after: A session that has failed: wait for another, even if this one's end has not been noticed yet.

        Raises:
            BrokerUnavailable: There will be no further session. The text says why: the supervisor was stopped, was
                cancelled, or has died.
        """
        while self._current is None or self._current is after:
            if self._ending is not None:
                await asyncio.sleep(0)  # whoever asks again and again must leave the others their turn
                raise BrokerUnavailable(f"the {self._name} {self._ending}")
            await self._changed.wait()
        return self._current

    async def run(self) -> None:
        """Keep sessions alive until :meth:`stop`, or until cancelled. To be called once."""
        if self.has_ended:
            return
        # A task of its own, so that stop() can end it without cancelling whoever runs this.
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"supervisor of {self._name}")
        try:
            await self._keeper
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError)
            self._end(None, "has been cancelled" if cancelled else f"has died of {error!r}")
            if not cancelled or cancellation_requested():
                raise

    async def stop(self) -> None:
        """Close the live session, if any, and end :meth:`run`. Safe to repeat."""
        self._end(self._current, "has been stopped")
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def _keep_alive(self) -> None:
        attempt = 0
        while True:
            cause, lived_s = await self._one_session()
            if cancellation_requested():  # the driver may have turned it into some error
                raise asyncio.CancelledError
            attempt = 1 if lived_s > self._policy.longest_s else attempt + 1
            delay_s = self._policy.delay_s(attempt)
            if self._on_failure is not None:
                self._on_failure(attempt, delay_s, cause)
            await self._sleep(delay_s)

    async def _one_session(self) -> tuple[Exception, float]:
        """Open one session and see it to its end: what ended it, and how many seconds it lived."""
        opened_s: float | None = None
        try:
            with broker_errors(self._name):
                session = await self._open()
                opened_s = self._now()
                cause: Exception = BrokerUnavailable(await self._serve(session))
        except Exception as error:  # whatever it is, it goes to on_failure and is tried again
            cause = error
        return cause, 0.0 if opened_s is None else self._now() - opened_s

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    async def _serve(self, session: S) -> str:
        self._announce(session)
        try:
            if cancellation_requested():
                # It came while the session was being opened, and whatever was awaited there kept it to itself, as
                # asyncio.wait_for does before Python 3.12 where both are ready at once. It does not come again.
                raise asyncio.CancelledError
            return await session.wait_ended()
        finally:
            self._announce(None)
            await _to_its_end(session.close())

    def _end(self, session: S | None, how: str) -> None:
        """Let there be no session after *session*. Of several reasons the first is the true one."""
        self._ending = self._ending or how
        self._announce(session)

    def _announce(self, session: S | None) -> None:
        """Set the state and wake everybody who waits for it to change."""
        self._current = session
        self._changed.set()
        self._changed = asyncio.Event()


async def _to_its_end(closing: Coroutine[Any, Any, None]) -> None:
    """Await *closing*, also if cancelled meanwhile: a stop while a session is being closed must not leave it half open."""
    task = asyncio.create_task(closing)
    try:
        await asyncio.shield(task)
    finally:
        await asyncio.wait({task})
