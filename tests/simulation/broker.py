"""The simulated broker: a quorum queue, sessions that consume it, and the dead letters."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from configcache.errors import BrokerUnavailable
from configcache.topology import COMMAND_QUEUE, TOPOLOGY
from configcache.wire import Reason
from configcache_worker.core.ports import Burial, Delivery, Letter, Settlement
from tests.simulation.plan import Parcel
from tests.simulation.table import SimulatedTable, TablePort
from tests.simulation.world import World

SOLO_COUNT = 10
_KEPT_BYTES = 4096
_CONFIRM_TIMEOUT_S = 1.0


@dataclass(eq=False)
class Message:
    """A message on its way through the queue."""

    number: int
    parcel: Parcel
    published: int
    """The tick of its publish."""
    returns: int
    state: str = "queued"
    """``queued``, ``out`` (with a session) or ``settled``."""
    letters: list[Reason] = field(default_factory=list)
    """What arrived in the dead letters."""
    is_rejected: bool = False
    unencodable_seen: bool = False
    acked: bool = False

    def __str__(self) -> str:
        return f"#{self.number}"

    @property
    def is_dead(self) -> bool:
        """Whether the dead letters have it."""
        return bool(self.letters) or self.is_rejected


class SimulatedBroker:
    """The queue and who consumes it."""

    def __init__(self, world: World, table: SimulatedTable) -> None:
        self.world = world
        self.table = table
        self.messages: list[Message] = []
        self.sessions: list[SimulatedSession] = []
        self._ready: deque[Message] = deque()
        self._limit = _delivery_limit(world.plan.version)

    def publish(self, parcel: Parcel) -> Message:
        message = Message(len(self.messages) + 1, parcel, self.world.tick(), parcel.returns)
        if parcel.scope is not None:
            self.table.wanted.add(parcel.scope)
        self.messages.append(message)
        self._ready.append(message)
        self.world.note("producer", f"{message} {parcel.body[:60]!r}{' poison' * (parcel.scope is None)}")
        self.dispatch()
        return message

    def dispatch(self) -> None:
        """Hand out what is ready to sessions that have room."""
        while self._ready:
            free = [session for session in self.sessions if session.has_room]
            if not free:
                return
            message = self._ready.popleft()
            message.state = "out"
            self.world.rng.choice(free).assign(message)

    def take_back(self, messages: Sequence[Message], *, counts: bool) -> None:
        """Messages of a lost session: first in the queue again, in their order."""
        back = []
        for message in messages:
            message.returns += counts
            if self._limit is not None and message.returns > self._limit:
                message.is_rejected, message.state = True, "settled"
                if message.parcel.scope is not None:
                    self.world.forbid(
                        f"{message} was dropped by the broker's delivery limit of {self._limit}"
                    )
                continue
            message.state = "queued"
            back.append(message)
        self._ready.extendleft(reversed(back))
        self.dispatch()

    def lose_everybody(self) -> None:
        for session in list(self.sessions):
            session.cut("the broker went away")


def _delivery_limit(version: str) -> int | None:
    """After how many returns the broker drops a message from the command queue, as its arguments and *version* have it."""
    (queue,) = [queue for queue in TOPOLOGY.queues if queue.name == COMMAND_QUEUE]
    limit = queue.arguments.get("x-delivery-limit")
    if limit is None:
        return None if version == "3.10" else 20
    if int(limit) < 0:
        return 0 if version == "3.10" else None
    return int(limit)


class SimulatedSession:
    """
    One connection with its consumer, both ends of it. What is written takes its time, and may be lost on the way.

    The pipeline sees it as a :class:`~configcache_worker.core.ports.Session`, the supervisor as its session.
    """

    def __init__(
        self,
        broker: SimulatedBroker,
        name: str,
        *,
        receive: Callable[..., None],
        dead_letters: DeadLettersPort,
    ) -> None:
        self._broker = broker
        self._dead_letters = dead_letters
        self._world = broker.world
        self._receive = receive
        self.name = name
        self._tag = 0
        self._outbox: deque[Delivery] = deque()
        """Sent by the broker, not yet read."""
        self._with_broker: dict[int, Message] = {}
        """What the broker has not been told about."""
        self._with_client: dict[int, Message] = {}
        """What the client has read and not settled."""
        self._frames: deque[Settlement] = deque()
        """Written by the client, not yet read by the broker."""
        self._is_attached = self._is_consuming = True
        self._is_drained = False
        """Its consumer is known to be cancelled."""
        self._is_paused = False
        self._reads_before_pause = 0
        self.is_closed = False
        """Whether the client has closed its end of the connection."""
        self.is_abandoned = False
        """Its process was killed: nobody writes any more."""
        self.lost_at_close = 0
        """Settlements that were on their way when the client closed a connection that it had drained."""
        self._ended: asyncio.Future[str] = broker.world.loop.create_future()
        broker.sessions.append(self)

    # the broker's end

    @property
    def has_room(self) -> bool:
        room = len(self._with_broker) < self._world.plan.limits.prefetch
        return self._is_attached and self._is_consuming and room

    def assign(self, message: Message) -> None:
        self._tag += 1
        self._with_broker[self._tag] = message
        parcel = message.parcel
        self._outbox.append(
            Delivery(
                tag=self._tag,
                body=parcel.body,
                properties=parcel.properties,
                solo=message.returns >= SOLO_COUNT,
                refusal=parcel.refusal,
                size=len(parcel.body),
                envelope=message,
            )
        )
        self._world.soon(self._read)

    def cut(self, why: str, *, counts: bool = True) -> None:
        """Lose the connection: what is on its way may arrive or not, and the client hears of it later."""
        if not self._is_attached:
            return
        self._world.note(self.name, f"cut: {why}")
        for _ in range(self._world.rng.randint(0, len(self._frames))):
            self._arrive()
        self._detach(counts=counts)
        self._world.soon(lambda: self.end(why))

    def _detach(self, *, counts: bool) -> None:
        self._is_attached = False
        self._outbox.clear()
        self._frames.clear()
        self._broker.sessions.remove(self)
        messages = list(self._with_broker.values())
        self._with_broker.clear()
        self._broker.take_back(messages, counts=counts)

    def _arrive(self) -> None:
        """The broker reads a settlement. It is in no state to object: that was checked when it was written."""
        if not self._frames:
            return
        settlement = self._frames.popleft()
        for tag in settlement.rejects:
            message = self._with_broker.pop(tag)
            message.is_rejected, message.state = True, "settled"
        acks = set(settlement.acks)
        if settlement.ack_up_to is not None:
            acks |= {tag for tag in self._with_broker if tag <= settlement.ack_up_to}
        for tag in sorted(acks):
            message = self._with_broker.pop(tag)
            message.acked, message.state = True, "settled"
        self._broker.dispatch()

    # the client's end

    def _read(self) -> None:
        """The client reads some of what was sent: as much as one read of a socket brings, not much beside its bounds."""
        if not self._outbox or not self._is_attached or self.has_ended or self.is_abandoned:
            return
        if self._is_paused:
            if not self._reads_before_pause:
                return
            self._reads_before_pause -= 1
        deliveries = [self._outbox.popleft()]
        room = self._world.plan.limits.max_held_bytes // 8
        most = self._world.rng.randint(0, 30)
        while self._outbox and len(deliveries) <= most:
            room -= deliveries[-1].size
            if self._outbox[0].size > room:
                break
            deliveries.append(self._outbox.popleft())
        for delivery in deliveries:
            self._with_client[delivery.tag] = self._with_broker[delivery.tag]
        numbers = " ".join(str(self._with_client[delivery.tag]) for delivery in deliveries)
        self._world.note(self.name, f"receives {numbers}")
        if self._outbox:
            self._world.soon(self._read)
        self._receive(self, deliveries)

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def settle(self, settlement: Settlement) -> bool:
        if self.has_ended or self.is_abandoned:
            return False
        self._check(settlement)
        if self._is_attached:  # or what is written goes nowhere, and the client has not heard of it yet
            self._frames.append(settlement)
            self._world.soon(self._arrive)
        return True

    def pause(self) -> None:
        if not self._is_paused:
            self._world.note(self.name, "paused")
            self._is_paused = True
            self._reads_before_pause = self._world.rng.randint(0, 1)

    def resume(self) -> None:
        if self._is_paused:
            self._world.note(self.name, "resumed")
            self._is_paused = False
            self._world.soon(self._read)

    def end(self, reason: str) -> None:
        if not self._ended.done():
            self._world.note(self.name, f"ended: {reason}")
            self._ended.set_result(reason)
            self._dead_letters.is_overfull |= "no more can be held" in reason

    async def wait_ended(self) -> str:
        return await asyncio.shield(self._ended)

    async def cancel_consumer(self) -> None:
        self.resume()
        await self._world.step()
        if not self._is_attached:
            self.end("cancelling the consumer failed")
            return
        self._is_consuming = False
        while self._outbox and self._is_attached and not self.is_abandoned:
            self._read()
            await self._world.step()
        await self._world.step()
        self._is_drained = not self.has_ended

    async def flush(self) -> None:
        while self._frames and self._is_attached:
            await self._world.step()
        if not self._is_attached:
            self.end("flushing failed")

    async def close(self) -> None:
        self.end("closed")
        await self._world.step()
        if self._is_attached:
            self.lost_at_close = len(self._frames) if self._is_drained else 0
            self._detach(counts=True)
        self.is_closed = True

    def _check(self, settlement: Settlement) -> None:
        """Hold what the client writes against what it may."""
        for tag in settlement.rejects:
            self._settled(tag, "rejected", self._may_be_rejected)
        if settlement.ack_up_to is not None:
            if settlement.ack_up_to not in self._with_client:
                self._world.forbid(f"{self.name} settles tag {settlement.ack_up_to}, which is not open")
            for tag in [tag for tag in self._with_client if tag < settlement.ack_up_to]:
                self._settled(tag, "acked", self._may_be_acked)
            self._settled(settlement.ack_up_to, "acked", self._may_be_acked)
        for tag in settlement.acks:
            self._settled(tag, "acked", self._may_be_acked)

    def _settled(self, tag: int, how: str, may: Callable[[Message], str | None]) -> None:
        message = self._with_client.pop(tag, None)
        if message is None:
            self._world.forbid(f"{self.name} settles tag {tag}, which is not open")
            return
        self._world.note(self.name, f"{how} {message}")
        objection = may(message)
        if objection:
            self._world.forbid(f"{message} was {how} {objection}")

    def _may_be_acked(self, message: Message) -> str | None:
        if message.letters:
            return None
        scope = message.parcel.scope
        if scope is None:
            return "before its letter was safe"
        stale = self._broker.table.stale(scope, published=message.published)
        return f"before its rows were gone: {stale}" if stale else None

    def _may_be_rejected(self, message: Message) -> str | None:
        parcel = message.parcel
        if parcel.refusal is not None or message.unencodable_seen:
            return None
        if parcel.scope is not None and len(parcel.body) > _KEPT_BYTES and is_refused(message, self._world):
            return None
        return "though nothing was wrong with it"


def is_refused(message: Message, world: World) -> bool:
    """Whether the database will never let this command through."""
    scope = message.parcel.scope
    return scope is not None and (
        bool(world.plan.refused) if scope.associate_id is None else scope.associate_id in world.plan.refused
    )


class DeliveriesPort:
    """One worker's way to the queue. It may be taken only after the ways to the table and the dead letters were found open."""

    def __init__(
        self,
        broker: SimulatedBroker,
        name: str,
        *,
        receive: Callable[..., None],
        table: TablePort,
        dead_letters: DeadLettersPort,
    ) -> None:
        self._broker = broker
        self._name = name
        self._receive = receive
        self._table = table
        self._dead_letters = dead_letters
        self._probes = 0
        self.opened: list[SimulatedSession] = []

    async def open(self) -> SimulatedSession:
        self._check_ways()
        await self._broker.world.step()
        if self._broker.world.is_away("broker"):
            raise BrokerUnavailable("the broker is away")
        name = f"{self._name} session {len(self.opened) + 1}"
        session = SimulatedSession(self._broker, name, receive=self._receive, dead_letters=self._dead_letters)
        self.opened.append(session)
        try:
            self._broker.dispatch()
            await self._broker.world.step()
        except BaseException:
            await session.close()
            raise
        return session

    def _check_ways(self) -> None:
        if self._table.probes == self._probes:
            self._broker.world.forbid(f"{self._name} consumes, and does not know whether it can clear")
        self._probes = self._table.probes
        if self._dead_letters.is_overfull:
            self._broker.world.forbid(
                f"{self._name} consumes, though it holds more poison than it can publish"
            )


class DeadLettersPort:
    """One worker's way to the dead letters. A :class:`~configcache_worker.core.ports.DeadLetters`."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self.is_overfull = False
        """Whether a session was ended for want of room, and no letter was taken since."""

    async def bury(self, letters: Sequence[Letter]) -> Sequence[Burial]:
        world, weather = self._world, self._world.plan.weather
        await world.step()
        lingers = world.plan.letters_stay_away and not world.is_clear
        if lingers or world.is_away("letters") or world.is_away("broker"):
            await asyncio.sleep(_CONFIRM_TIMEOUT_S)
            return [self._unburied(letter) for letter in letters]
        outcomes = []
        for letter in letters:
            if world.happens(weather.letters_fault):
                outcomes.append(self._unburied(letter))
                continue
            outcomes.append(self._bury(letter))
            if world.happens(weather.letters_doubt):
                outcomes[-1] = self._unburied(letter)
        await world.step()
        self.is_overfull &= Burial.CONFIRMED not in outcomes
        return outcomes

    async def stop(self) -> None:
        await self._world.step()

    def _unburied(self, letter: Letter) -> Burial:
        return Burial.UNENCODABLE if self._is_unencodable(letter) else Burial.UNAVAILABLE

    def _bury(self, letter: Letter) -> Burial:
        message = letter.delivery.envelope
        assert isinstance(message, Message)
        if self._is_unencodable(letter):
            return Burial.UNENCODABLE
        parcel = message.parcel
        self._world.note(self._name, f"letter of {message}: {letter.reason.value}")
        if letter.delivery.body != parcel.body:
            self._world.forbid(f"the letter of {message} has another body")
        if parcel.scope is None:
            if letter.reason is not parcel.reason:
                self._world.forbid(f"the letter of {message} says {letter.reason}, not {parcel.reason}")
        elif letter.reason is not Reason.REFUSED_BY_DATABASE or not is_refused(message, self._world):
            self._world.forbid(f"{message} was dead-lettered as {letter.reason}, and is good")
        message.letters.append(letter.reason)
        return Burial.CONFIRMED

    def _is_unencodable(self, letter: Letter) -> bool:
        message = letter.delivery.envelope
        assert isinstance(message, Message)
        message.unencodable_seen = message.parcel.unencodable
        return message.parcel.unencodable
