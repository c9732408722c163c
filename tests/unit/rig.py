"""A pipeline over in-memory ports."""

import asyncio
import contextlib
import json

from configcache.retry import RetryPolicy
from configcache.wire import COMMAND_PROPERTIES
from configcache_worker.core.bounds import Limits
from configcache_worker.core.pipeline import Pipeline
from configcache_worker.core.ports import Burial, Chunk, Delivery, TableFault
from tests.waiting import eventually

QUICK = RetryPolicy(first_s=0.001, longest_s=0.01)


class FakeSession:
    """Settles as a channel does, and remembers."""

    def __init__(self):
        self.has_ended = False
        self.end_reason, self.is_paused = None, False
        self.tag = 0
        self.open, self.acked, self.rejected = set(), set(), set()

    def settle(self, settlement):
        if self.has_ended:
            return False
        for tag in settlement.rejects:
            self._move(tag, self.rejected)
        for tag in sorted(self.open):
            if tag <= (settlement.ack_up_to or 0):
                self._move(tag, self.acked)
        for tag in settlement.acks:
            self._move(tag, self.acked)
        return True

    def _move(self, tag, settled):
        self.open.remove(tag)
        settled.add(tag)

    def pause(self):
        self.is_paused = True

    def resume(self):
        self.is_paused = False

    def end(self, reason):
        self.has_ended, self.end_reason = True, reason

    def deliveries(self, *bodies, **changes):
        found = []
        for body in bodies:
            self.tag += 1
            self.open.add(self.tag)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            delivery = Delivery(self.tag, raw, COMMAND_PROPERTIES, False, None, len(raw), None)
            found.append(delivery._replace(**changes))
        return found


class FakeTable:
    """Rows in a set. *fails* is asked before each transaction and may raise; *held* stops transactions."""

    def __init__(self, rows=()):
        self.rows = set(rows)
        self.passes, self.begun, self.attempts = [], 0, 0
        self.fails = lambda scopes, limit: None
        self.held = asyncio.Event()
        self.held.set()

    async def clear(self, scopes, *, after, limit):
        self.begun += 1
        await self.held.wait()
        await asyncio.sleep(0)
        self.attempts += 1
        self.fails(scopes, limit)
        self.passes.append(list(scopes))
        gone = {row for row in self.rows for scope in scopes if matches(scope, row)}
        self.rows -= gone
        return Chunk(len(gone), None)

    async def probe(self):
        await self.clear([], after=None, limit=0)


class FakeDeadLetters:
    def __init__(self):
        self.letters, self.outcome = [], Burial.CONFIRMED
        self.gate = asyncio.Event()
        self.gate.set()

    async def bury(self, letters):
        await self.gate.wait()
        await asyncio.sleep(0)
        if self.outcome is Burial.CONFIRMED:
            self.letters += letters
        return [self.outcome] * len(letters)


def matches(scope, row):
    return row[:2] == scope[:2] and scope.associate_id in (None, row[2])


def one(associate, instance="Web"):
    return {"Application": "WebClient", "Instance": instance, "AssociateId": associate}


def everybody(instance="Web"):
    return {"Application": "WebClient", "Instance": instance, "ForAllAssociates": True}


def row(associate, instance="Web"):
    return ("WebClient", instance, associate)


class Rig:
    def __init__(self, *, policy=QUICK, announcer=None, age_s=None, **limits):
        self.session, self.table, self.dead_letters = FakeSession(), FakeTable(), FakeDeadLetters()
        self.pipeline = Pipeline(
            table=self.table,
            dead_letters=self.dead_letters,
            policy=policy,
            limits=Limits(**limits),
            announcer=announcer,
            age_s=age_s,
        )

    def receive(self, *bodies, **changes):
        deliveries = self.session.deliveries(*bodies, **changes)
        self.pipeline.receive(self.session, deliveries)
        return [delivery.tag for delivery in deliveries]

    async def settled(self):
        await eventually(lambda: not self.session.open)


@contextlib.asynccontextmanager
async def running(rig):
    task = asyncio.create_task(rig.pipeline.run())
    yield rig
    rig.pipeline.drain()
    async with asyncio.timeout(5):
        await task


def refuse(sqlstate, *associates):
    """Fail every transaction that touches one of *associates*, or any where none is named."""

    def fails(scopes, limit):
        if not associates or any(scope.associate_id in (*associates, None) for scope in scopes):
            raise TableFault("refused", sqlstate=sqlstate)

    return fails
