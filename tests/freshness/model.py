"""
Every order of steps of a few readers, writers and workers, searched to the end.

The model is small enough to be searched whole, and says what it says about the real thing because its three functions
(:func:`begin`, :func:`store`, :func:`release`) are compared with the real ones on every row there can be, on a real
server. A clear is what READ COMMITTED makes of it: a snapshot first, then the deletion of those rows that the snapshot has
seen and that are still there, in whatever version; for one key after the other, as its chunks are.

Two things keep it small. A reader asks and begins in one step: had it asked earlier, less would be promised to it. And
states that differ only in who is who are one state.

What must hold at every step: a read gives nothing older than what was cleared before it began, and the table holds nothing
older than what has been cleared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tests.freshness.mutations import Mutation

NOBODY = -1
"""Whose lease it is when its reader is dead or done."""


class Row(NamedTuple):
    """A row of the table. Configurations, and the XML built from them, are known by their version."""

    xml: int | None
    lease: int | None
    is_expired: bool = False


class Begun(NamedTuple):
    """What begin answers: XML, a lease, or neither."""

    xml: int | None
    lease: int | None


def begin(row: Row | None, lease: int, *, refresh: bool = False) -> tuple[Row, Begun]:
    """``configuration_cache_begin``: the row after it, and the answer."""
    if row is None:
        return Row(None, lease), Begun(None, lease)
    if refresh:
        return Row(row.xml, lease), Begun(None, lease)
    if row.xml is not None:
        return row, Begun(row.xml, None)
    if row.lease is None or row.is_expired:
        return Row(None, lease), Begun(None, lease)
    return row, Begun(None, None)


def store(row: Row | None, lease: int, xml: int) -> tuple[Row | None, bool]:
    """``configuration_cache_store``: the row after it, and the answer."""
    if row is None or row.lease != lease:
        return row, False
    return Row(xml, None), True


def release(row: Row | None, lease: int) -> tuple[Row | None, bool]:
    """``configuration_cache_release``: the row after it, and the answer."""
    if row is None or row.lease != lease:
        return row, False
    return (None if row.xml is None else Row(row.xml, None)), True


class Doing(IntEnum):
    """What a reader is about to do."""

    ASK = 1
    BEGIN = 2
    READ = 3
    STORE = 4


class Reader(NamedTuple):
    """One who reads through the cache."""

    key: int
    reads_left: int
    doing: Doing = Doing.ASK
    floor: int = 0
    """What was cleared when the read began."""
    source: int = -1
    """The version that was read. Its lease is its place among the readers."""


class Clear(NamedTuple):
    """A change of the configuration, and the command that follows it."""

    version: int = 0
    """0: nothing has changed yet, or all is done."""
    key: int = 0
    """The next key of the pass; past the last, the pass is done."""
    has_snapshot: bool = False
    sees: bool = False
    """The snapshot has seen the row of this key, and it is still the same."""


class State(NamedTuple):
    """Everything at one moment."""

    source: int
    floor: int
    """All changes up to this version have been cleared."""
    rows: tuple[Row | None, ...]
    readers: tuple[Reader, ...]
    clears: tuple[Clear, ...]
    refused: int = -1
    """What a broken waiter would take: the last XML that could not be stored."""


class Stale(Exception):
    """A promise was broken; the text says how."""


@dataclass(frozen=True)
class Search:
    """How a search went."""

    states: int
    trace: tuple[str, ...] | None
    """The shortest way to a broken promise, if there is one."""


def search(*, readers: tuple[int, ...], reads: int, clears: int, mutation: Mutation | None = None) -> Search:
    """
    Take every step in every state.

    Args:
        readers: The key of each.
        reads: How often each reads.
        clears: How many changes are made, each with its command.
        mutation: What is broken.
    """
    model = _Model(keys=max(readers) + 1, mutation=mutation)
    start = State(
        0, 0, (None,) * model.keys, tuple(Reader(key, reads) for key in readers), (Clear(),) * clears
    )
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    layer = [start]
    while layer:
        following = []
        for state in layer:
            try:
                for what, after in model.steps(state):
                    same = _in_order(after)
                    if same not in came_from:
                        came_from[same] = (state, what)
                        following.append(same)
            except Stale as stale:
                return Search(len(came_from), (*_way(came_from, state), str(stale)))
        layer = following
    return Search(len(came_from), None)


def _in_order(state: State) -> State:
    """The one of all states that differ only in who is who."""
    readers = state.readers
    places = sorted(range(len(readers)), key=readers.__getitem__)
    rows = tuple(
        row._replace(lease=places.index(row.lease))
        if row and row.lease is not None and row.lease >= 0
        else row
        for row in state.rows
    )
    ordered = tuple(readers[place] for place in places)
    return State(state.source, state.floor, rows, ordered, tuple(sorted(state.clears)), state.refused)


def _way(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way = []
    while (before := came_from[state]) is not None:
        state, what = before
        way.append(what)
    return way[::-1]


class _Model:
    def __init__(self, *, keys: int, mutation: Mutation | None) -> None:
        self.keys = keys
        self._mutation = mutation

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """
        What can happen next, and what is then.

        Raises:
            Stale: The next step breaks a promise.
        """
        for place, reader in enumerate(state.readers):
            if reader.doing is Doing.ASK:
                if reader.reads_left:
                    yield from self._ask(state, place, reader)
            elif reader.doing is Doing.BEGIN:
                yield self._begin(state, place, reader)
            else:
                yield from self._build(state, place, reader)
        for number, clear in enumerate(state.clears):
            yield from self._clear(state, number, clear)
        for key, row in enumerate(state.rows):
            if row and row.lease is not None and not row.is_expired:
                yield "a lease expires", _with_row(state, key, row._replace(is_expired=True))

    def _ask(self, state: State, place: int, reader: Reader) -> Iterator[tuple[str, State]]:
        asking = reader._replace(reads_left=reader.reads_left - 1, floor=state.floor, doing=Doing.BEGIN)
        if self._mutation is Mutation.READ_BEFORE_BEGIN:
            early = asking._replace(source=state.source)
            yield f"reads version {state.source}, and has not begun", _with_reader(state, place, early)
        else:
            yield self._begin(state, place, asking)
            yield self._begin(state, place, asking, refresh=True)

    def _begin(self, state: State, place: int, reader: Reader, *, refresh: bool = False) -> tuple[str, State]:
        row = state.rows[reader.key]
        has_waited = reader == state.readers[place]
        if self._mutation is Mutation.WAITER_ACCEPTS_REFUSED and has_waited and state.refused >= 0:
            return _served(state, place, reader, state.refused, "takes, having waited, the refused")
        if self._mutation is Mutation.NO_FENCE:
            begun = Begun(None, place) if row is None or refresh else Begun(row.xml, None)
        else:
            row, begun = begin(row, place, refresh=refresh)
        if begun.xml is not None:
            return _served(state, place, reader, begun.xml, "finds")
        if begun.lease is None:
            return "waits", _with_reader(state, place, reader)
        builds = reader._replace(doing=Doing.READ if reader.source < 0 else Doing.STORE)
        what = "begins to refresh" if refresh else "begins to build"
        return what, _with_reader(_with_row(state, reader.key, row), place, builds)

    def _build(self, state: State, place: int, reader: Reader) -> Iterator[tuple[str, State]]:
        if reader.doing is Doing.READ:
            read = reader._replace(doing=Doing.STORE, source=state.source)
            yield f"reads version {state.source}", _with_reader(state, place, read)
        else:
            yield self._store(state, place, reader)
        yield "dies while building", _finished(state, place)
        row, _ = release(state.rows[reader.key], place)
        yield "gives up", _finished(_with_row(state, reader.key, row), place)

    def _store(self, state: State, place: int, reader: Reader) -> tuple[str, State]:
        row, version = state.rows[reader.key], reader.source
        if self._mutation is Mutation.NO_FENCE:
            row, is_stored = Row(version, None), True
        elif self._mutation is Mutation.STORE_WITHOUT_LEASE:
            row, is_stored = row and Row(version, None), row is not None
        else:
            row, is_stored = store(row, place, version)
        if is_stored and version < state.floor:
            raise Stale(f"stores version {version}, and {state.floor} has been cleared")
        if not is_stored and self._mutation is Mutation.WAITER_ACCEPTS_REFUSED:
            state = state._replace(refused=version)
        done = "stores and returns" if is_stored else "may not store, and returns"
        return _served(_with_row(state, reader.key, row), place, reader, version, done)

    def _clear(self, state: State, number: int, clear: Clear) -> Iterator[tuple[str, State]]:
        if clear.key == self.keys:
            return
        if not clear.version:
            version = state.source + 1
            changed = state._replace(source=version)
            yield f"the configuration becomes version {version}", _with_clear(changed, number, Clear(version))
        elif not clear.has_snapshot:
            seen = clear._replace(has_snapshot=True, sees=state.rows[clear.key] is not None)
            yield f"a clear takes its snapshot of key {clear.key}", _with_clear(state, number, seen)
        else:
            yield from self._delete(state, number, clear)

    def _delete(self, state: State, number: int, clear: Clear) -> Iterator[tuple[str, State]]:
        row, again = state.rows[clear.key], Clear(clear.version)
        is_kept = self._mutation is Mutation.LEASE_KEPT_ACROSS_CLEAR and row is not None and row.xml is None
        deleted = _with_row(state, clear.key, None) if clear.sees and not is_kept else state
        if clear.key + 1 < self.keys:
            yield (
                "a clear commits its chunk",
                _with_clear(deleted, number, Clear(clear.version, clear.key + 1)),
            )
        else:
            done = deleted._replace(floor=max(state.floor, clear.version))
            yield f"version {clear.version} has been cleared", _with_clear(done, number, Clear(0, self.keys))
        yield "a clear's worker dies after a commit", _with_clear(deleted, number, again)
        yield "a clear's worker dies", _with_clear(state, number, again)


def _served(state: State, place: int, reader: Reader, version: int, what: str) -> tuple[str, State]:
    """A reader's caller gets what was built from *version*."""
    if version < reader.floor:
        raise Stale(f"{what} version {version}, and {reader.floor} was cleared before the read")
    return f"{what} version {version}", _finished(state, place)


def _finished(state: State, place: int) -> State:
    """A reader is done, or dead. Its lease, if there still is one, is nobody's."""
    reader = state.readers[place]
    row = state.rows[reader.key]
    if row and row.lease == place:
        state = _with_row(state, reader.key, row._replace(lease=NOBODY))
    left = reader.reads_left - (reader.doing is Doing.ASK)
    return _with_reader(state, place, Reader(reader.key, left))


def _with_reader(state: State, place: int, reader: Reader) -> State:
    readers = state.readers
    return state._replace(readers=(*readers[:place], reader, *readers[place + 1 :]))


def _with_clear(state: State, number: int, clear: Clear) -> State:
    clears = state.clears
    return state._replace(clears=(*clears[:number], clear, *clears[number + 1 :]))


def _with_row(state: State, key: int, row: Row | None) -> State:
    rows = state.rows
    after = state._replace(rows=(*rows[:key], row, *rows[key + 1 :]))
    if row is None:
        # Whoever had seen the row will not see the next one in its place.
        clears = [clear._replace(sees=False) if clear.key == key else clear for clear in state.clears]
        after = after._replace(clears=tuple(clears))
    return after
