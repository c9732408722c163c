"""
The relay: committed rows of the outbox become published commands.

    wait for a session and a connection ──► move: take, publish, delete, commit ──► more? again : wait for news

A row is deleted in the transaction that has taken it, after the broker's confirm. So a crash at any point publishes a
command twice rather than never, and several relays side by side take different rows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import ValidationError

from configcache import ClearConfigurationCache, Publisher, PublishError, Refused
from configcache.connection import Supervisor
from configcache_worker.core.totals import PauseCause, Pauses
from configcache_worker.observe.health import Exposition, HealthServer, Readiness
from configcache_worker.observe.metrics import Metrics
from configcache_worker.observe.relay_metrics import relay_metrics
from configcache_worker.postgres.backlog import Backlog, OutboxBacklog
from configcache_worker.postgres.outbox import OutboxFault, OutboxRow, OutboxSession, PostgresOutbox

if TYPE_CHECKING:
    from configcache.retry import RetryPolicy
    from configcache_worker.observe.metrics import Metric

log = structlog.stdlib.get_logger()

_GRACE_S: Final = 2.0  # to commit what has been published when told to stop


class Relay:
    """
    Publishes what the outbox holds until told to stop. Built by ``app.build_relay``.

    Broker, database and table need not be there at the start: it waits for them with back-off.
    """

    def __init__(
        self,
        *,
        outbox: PostgresOutbox,
        backlog: OutboxBacklog,
        publisher: Publisher,
        policy: RetryPolicy,
        batch: int,
        publish_timeout_s: float,
        poll_interval_s: float,
        health_address: tuple[str, int] | None,
    ) -> None:
        self.relayed = 0
        """Rows published and deleted so far."""
        self._commands = 0
        self._retries = 0
        self._pauses = Pauses()
        self._outbox = outbox
        self._backlog = backlog
        self._waiting: Backlog | None = None
        self.metrics = Metrics(self._read_metrics)
        """What it tells of itself, by :meth:`expose`."""
        self._publisher = publisher
        self._policy = policy
        self._batch = batch
        self._publish_timeout_s = publish_timeout_s
        self._poll_interval_s = poll_interval_s
        self._health = health_address and HealthServer(
            *health_address, readiness=self.readiness, metrics=self.expose
        )
        self._sessions = Supervisor[OutboxSession](
            name="outbox", open=self._open_session, policy=policy, on_failure=self._tell_failure
        )
        self._stopping = asyncio.Event()
        self._between_moves = asyncio.Event()
        self._between_moves.set()
        self._last_failure: str | None = None
        self._last_refusal: PublishError | None = None
        self._attempt = 0

    def __repr__(self) -> str:
        return f"<Relay {self._sessions!r} {self._publisher!r}, {self.relayed} rows>"

    async def run(self) -> None:
        """
        Work until :meth:`stop`, then finish the rows that are taken.

        Raises:
            StartRefused: The probes can't be served.
            Exception: A part of the relay died. Nothing is lost: what was not published is in the outbox.
        """
        async with contextlib.AsyncExitStack() as stack:
            if self._health:
                await self._health.start()
                stack.push_async_callback(self._health.stop)
            await stack.enter_async_context(self._publisher)
            sessions = asyncio.create_task(self._sessions.run(), name="sessions")
            moving = asyncio.create_task(self._move_until_stopped(), name="relay")
            stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
            stack.push_async_callback(_cancel, sessions, moving, stopping)
            stack.push_async_callback(self._sessions.stop)
            log.info("relay.started")
            await asyncio.wait({sessions, moving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (sessions, moving):
                if task.done():
                    task.result()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._publish_timeout_s + _GRACE_S):
                    await self._between_moves.wait()
        log.info("relay.stopped", rows=self.relayed)

    def stop(self) -> None:
        """Ask :meth:`run` to finish and return. Safe to repeat."""
        self._stopping.set()

    async def readiness(self) -> Readiness:
        """Whether what is committed is published at once, and if not, why."""
        reasons: dict[str, str] = {}
        if self._stopping.is_set():
            reasons["relay"] = "draining"
        if self._sessions.current is None:
            reasons["database"] = f"not listening: {self._last_failure or 'no session yet'}"
        if not self._publisher.is_connected:
            reasons["broker"] = "no connection"
        elif self._last_refusal is not None:
            reasons["broker"] = str(self._last_refusal)
        return Readiness(ready=not reasons, reasons=reasons)

    async def expose(self, accept: str) -> Exposition:
        """Its metrics, in the format that *accept* asks for. Waits two seconds for the database, and no longer."""
        self._waiting = await self._backlog.look()
        self._note_pauses()
        return await self.metrics.expose(accept)

    def _read_metrics(self) -> Iterator[Metric]:
        return relay_metrics(
            published=self.relayed,
            commands=self._commands,
            retries=self._retries,
            pauses=self._pauses,
            moment=asyncio.get_running_loop().time(),
            backlog_rows=self._waiting and self._waiting.rows,
            lag_s=self._waiting and self._waiting.oldest_s,
        )

    async def _open_session(self) -> OutboxSession:
        session = await self._outbox.open()
        log.info("relay.listening", consequence="what is committed is published at once")
        return session

    def _tell_failure(self, attempt: int, delay_s: float, cause: BaseException) -> None:
        self._last_failure = str(cause) or type(cause).__name__
        self._retries += 1
        self._note_pauses()
        log.warning(
            "relay.session_failed",
            attempt=attempt,
            retry_in_s=round(delay_s, 3),
            error=self._last_failure,
            consequence="commands stay in the outbox until the next session",
        )

    async def _move_until_stopped(self) -> None:
        failed: OutboxSession | None = None
        while not self._stopping.is_set():
            self._note_pauses()
            session = await self._sessions.session(after=failed)
            # No transaction is begun, and none held open, for a broker that is known to be away.
            await self._publisher.wait_connected()
            self._note_pauses()
            if session is not self._sessions.current:
                continue
            move = await self._move(session)
            if move is None:
                failed = session
            elif move.refusal is not None:
                await self._back_off(move.refusal)
            elif move.taken < self._batch:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_interval_s):
                        await session.wait_news()

    async def _move(self, session: OutboxSession) -> _Move | None:
        """Move what there is, up to a batch. None if the transaction has failed, and with it the session."""
        move = _Move()
        self._between_moves.clear()
        try:
            move.taken = await session.move(self._batch, partial(self._publish, move))
        except OutboxFault as fault:
            self._retries += 1
            log.warning("outbox.not_moved", error=str(fault), consequence="the rows are taken again")
            return None
        finally:
            self._between_moves.set()
        self._note(move)
        return move

    async def _publish(self, move: _Move, rows: Sequence[OutboxRow]) -> Collection[int]:
        """Publish *rows*, equal ones once, and give the ids of those whose command is confirmed."""
        ids: dict[ClearConfigurationCache, list[int]] = {}
        for row in rows:
            try:
                ids.setdefault(_command(row), []).append(row.id)
            except ValidationError as error:  # somebody has dropped the table's constraints
                violation = error.errors()[0]["msg"]
                move.refusal = Refused(f"row {row.id} of the outbox stays, delete it or mend it: {violation}")
        results = await asyncio.gather(*map(self._publisher.publish, ids), return_exceptions=True)
        for result, rows_of_command in zip(results, ids.values(), strict=True):
            if result is None:
                move.commands += 1
                move.published += rows_of_command
            elif isinstance(result, PublishError):
                move.refusal = result
            else:
                raise result
        move.oldest_s = max(row.age_s for row in rows)
        return move.published

    def _note(self, move: _Move) -> None:
        self._last_refusal = move.refusal
        self._note_pauses()
        if move.refusal is None:
            self._attempt = 0
        if move.published:
            self.relayed += len(move.published)
            self._commands += move.commands
            log.info(
                "outbox.relayed",
                rows=len(move.published),
                commands=move.commands,
                oldest_s=round(move.oldest_s, 3),
            )

    async def _back_off(self, refusal: PublishError) -> None:
        self._attempt += 1
        self._retries += 1
        delay_s = self._policy.delay_s(self._attempt)
        log.warning(
            "outbox.held",
            attempt=self._attempt,
            retry_in_s=round(delay_s, 3),
            error=str(refusal),
            consequence="commands stay in the outbox and are tried again",
        )
        await asyncio.sleep(delay_s)

    def _note_pauses(self) -> None:
        # When somebody asks, and wherever the relay may be about to wait: an end that comes between two looks at the outbox
        # is noted at the next.
        moment = asyncio.get_running_loop().time()
        is_refused = not self._publisher.is_connected or self._last_refusal is not None
        self._pauses.note(PauseCause.DATABASE, self._sessions.current is None, moment)
        self._pauses.note(PauseCause.BROKER, is_refused, moment)


@dataclass(slots=True)
class _Move:
    """What became of one batch."""

    taken: int = 0
    commands: int = 0
    published: list[int] = field(default_factory=list)
    oldest_s: float = 0.0
    refusal: PublishError | None = None


def _command(row: OutboxRow) -> ClearConfigurationCache:
    return ClearConfigurationCache(
        application=row.application,
        instance=row.instance,
        for_all_associates=row.for_all_associates,
        associate_id=row.associate_id,
    )


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
