"""The simulated cache table: a statement sees what was there when it began, and commits later, or not, or unheard."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from configcache_worker.core.ports import Chunk, Position, Scope, TableFault
from tests.simulation.plan import APPLICATIONS, ASSOCIATES, INSTANCES, OUTAGES
from tests.simulation.world import World

_ORPHANS = 0.5
"""How many of the statements that nobody waits for any more commit all the same."""


class Row(NamedTuple):
    application: str
    instance: str
    associate_id: int
    item: str


def covers(scope: Scope, row: Row) -> bool:
    """Whether clearing *scope* deletes *row*."""
    return row[:2] == scope[:2] and scope.associate_id in (None, row.associate_id)


class SimulatedTable:
    """The rows, shared by all workers, each with the tick of its birth."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.births: dict[Row, int] = {}
        self.wanted: set[Scope] = set()
        """All that was ever asked for: nothing else may be cleared."""
        self.deleted: set[Row] = set()

    def fill(self) -> None:
        """Cache items of everybody."""
        plan, rng = self.world.plan, self.world.rng
        for application in APPLICATIONS:
            for instance in INSTANCES:
                for associate in ASSOCIATES:
                    for item in range(plan.items):
                        if rng.random() < plan.filled:
                            self.insert(Row(application, instance, associate, f"item {item:03}"))

    def insert(self, row: Row) -> None:
        """Cache *row*, if it is not there."""
        self.births.setdefault(row, self.world.tick())

    def stale(self, scope: Scope, *, published: int) -> list[Row]:
        """Rows of *scope* that were there when its command was published, and still are."""
        return [row for row, birth in self.births.items() if birth < published and covers(scope, row)]

    def delete(self, row: Row) -> None:
        del self.births[row]
        self.deleted.add(row)

    def unwanted_deletions(self) -> list[Row]:
        """Rows that were deleted, and that no command named."""
        return [row for row in sorted(self.deleted) if not any(covers(scope, row) for scope in self.wanted)]

    def statement(self, scopes: Sequence[Scope], *, after: Position | None, limit: int) -> Statement:
        """Begin a statement: its snapshot is taken now."""
        if list(scopes) != sorted(set(scopes), key=_order):
            self.world.forbid(f"scopes are not sorted: {scopes}")
        for scope in scopes:
            if scope not in self.wanted:
                self.world.forbid(f"nobody asked to clear {scope}")
        return Statement(self, scopes, after, limit, snapshot=self.world.tick())


class Statement:
    """One transaction that deletes a chunk."""

    def __init__(
        self,
        table: SimulatedTable,
        scopes: Sequence[Scope],
        after: Position | None,
        limit: int,
        *,
        snapshot: int,
    ) -> None:
        self._table, self._scopes, self._after, self._limit = table, scopes, after, limit
        self._snapshot = snapshot

    def commit(self) -> Chunk:
        """
        Delete and commit.

        Raises:
            TableFault: A trigger, a lock or the time limit of the statement was against it; nothing is deleted.
        """
        found = self._visible_rows()
        self._check_size(len(found))
        chunk = found[: self._limit]
        self._check_rows([row for _, row in chunk])
        for _, row in chunk:
            self._table.delete(row)
        self._table.world.note("table", f"committed: {len(chunk)} rows of {_named(self._scopes)}")
        if len(chunk) < self._limit:
            return Chunk(len(chunk), None)
        number, row = chunk[-1]
        return Chunk(len(chunk), Position(number, row.associate_id, row.item))

    def _visible_rows(self) -> list[tuple[int, Row]]:
        number_of: dict[tuple[object, ...], int] = {
            scope: number for number, scope in enumerate(self._scopes)
        }
        found = []
        for row, birth in self._table.births.items():
            if birth < self._snapshot:
                number = number_of.get(row[:3], number_of.get((row[0], row[1], None)))
                if number is not None:
                    found.append((number, row))
        if self._after is not None:
            found = [one for one in found if (one[0], one[1].associate_id, one[1].item) > self._after]
        return sorted(found)

    def _check_size(self, rows: int) -> None:
        plan = self._table.world.plan
        scopes = len(self._scopes) - (self._after.scope if self._after else 0)
        too_many_scopes = plan.most_scopes is not None and scopes > plan.most_scopes
        too_many_rows = plan.most_rows is not None and min(rows, self._limit) > plan.most_rows
        if too_many_scopes or too_many_rows:
            raise TableFault("statement timeout", sqlstate="57014", timed_out=True)

    def _check_rows(self, rows: Sequence[Row]) -> None:
        world = self._table.world
        plan = world.plan
        if not world.is_clear and any(row.associate_id in plan.held for row in rows):
            raise TableFault("lock timeout", sqlstate="55P03")
        if world.is_stormy and plan.trigger_refuses_all and rows:
            raise TableFault("the trigger refuses all", sqlstate="P0001")
        if any(row.associate_id in plan.refused for row in rows):
            raise TableFault("the trigger refuses this row", sqlstate="P0001")


class TablePort:
    """One worker's way to the table: one statement at a time. A :class:`~configcache_worker.core.ports.CacheTable`."""

    def __init__(self, table: SimulatedTable, name: str) -> None:
        self._table = table
        self._world = table.world
        self._name = name
        self._turn = asyncio.Lock()
        self.probes = 0
        """Probes that committed."""

    async def clear(self, scopes: Sequence[Scope], *, after: Position | None, limit: int) -> Chunk:
        async with self._turn:
            self._world.note(self._name, f"clears {_named(scopes)}, from {after}, up to {limit} rows")
            statement = self._table.statement(scopes, after=after, limit=limit)
            try:
                await self._world.step()
                self._fail_before()
                chunk = statement.commit()
                await self._answer()
            except asyncio.CancelledError:
                self._orphan(statement)
                raise
            except TableFault as fault:
                self._world.note(self._name, f"failed: {fault} {fault.sqlstate}")
                if fault.timed_out:
                    self._orphan(statement)
                raise
            return chunk

    async def probe(self) -> None:
        await self.check_layout()
        self.probes += 1

    async def check_layout(self) -> None:
        async with self._turn:
            await self._world.step()
            if self._world.is_away("table"):
                raise TableFault("the table is away", sqlstate=self._world.rng.choice(OUTAGES))

    async def close(self) -> None:
        await self._world.step()

    def _fail_before(self) -> None:
        world, weather = self._world, self._world.plan.weather
        if world.is_away("table"):
            raise TableFault("the table is away", sqlstate=world.rng.choice(OUTAGES))
        if world.happens(weather.table_fault):
            raise TableFault("a passing fault", sqlstate=world.rng.choice(OUTAGES))
        if world.happens(weather.table_timeout):
            raise TableFault("no answer in time", timed_out=True)
        if world.happens(weather.table_bug):
            raise TableFault("TypeError", unexpected=True)
        if world.happens(weather.worker_bug):
            world.note(self._name, "sabotaged: an error that nobody expects")
            raise RuntimeError("sabotage")

    async def _answer(self) -> None:
        await self._world.step()
        if self._world.happens(self._world.plan.weather.table_doubt):
            raise TableFault("the connection was lost after the commit")

    def _orphan(self, statement: Statement) -> None:
        """What was sent to the server goes on there, without its client."""
        if self._world.rng.random() < _ORPHANS:
            self._world.note(self._name, "leaves a statement behind")
            self._world.soon(lambda: _commit_unheard(statement))


def _commit_unheard(statement: Statement) -> None:
    try:
        statement.commit()
    except TableFault:
        return


def _order(scope: Scope) -> tuple[str, str, int]:
    return (scope.application, scope.instance, scope.associate_id or 0)


def _named(scopes: Sequence[Scope]) -> str:
    return ", ".join(f"{s.application}/{s.instance}/{s.associate_id or 'all'}" for s in scopes)
