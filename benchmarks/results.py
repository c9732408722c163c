"""What was measured, round by round, as it stands in the JSON file. Values only; what they mean is in the report."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Final, get_args, get_type_hints

STUCK: Final = "the table locked"
"""A situation of :class:`Memory`."""

SCRAPED: Final = "metrics, scraped every second"
UNWATCHED: Final = "no port"
"""What is told in :class:`Telemetry`."""

AT_100: Final = "100/s"
AT_1000: Final = "1,000/s"
HALF: Final = "half of our maximum"
TIMES_DRAMATIQ: Final = "three times Dramatiq's maximum"
"""Loads of :class:`Latency`."""


@dataclass(frozen=True)
class Conditions:
    """Where it was measured."""

    processors: int
    python: str
    rabbitmq: str
    postgresql: str
    quick: bool
    """The small run: enough to see that everything works, too short for figures to be quoted."""


@dataclass(frozen=True)
class Drain:
    """One backlog drained by one contender. CPU is that of the whole process tree, in ms for 1,000 messages."""

    round: int
    contender: str
    workload: str
    title: str
    workers: int
    messages: int
    """The whole backlog."""
    counted: int
    """How many of them fell into the time: not those of the batch whose end started the clock."""
    rows: int
    """How many rows were deleted in the time."""
    seconds: float
    worker_cpu: float
    broker_cpu: float | None
    """None where the broker is not on this machine."""
    database_cpu: float
    peak_mb: float | None
    """The most memory the workers held at any look; None where nobody looked."""
    early_mb: float | None
    """The most they held in the first tenth of the time."""

    @property
    def per_s(self) -> float:
        """Messages per second."""
        return self.counted / self.seconds


@dataclass(frozen=True)
class Latency:
    """From the moment a command was due to be published until its row was gone, in milliseconds."""

    round: int
    contender: str
    load: str
    """What the rate is: ``100/s``, or half of a maximum."""
    per_s: int
    commands: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    """How late commands were written to the socket: the generator's part of the above."""


@dataclass(frozen=True)
class Gap:
    """The longest time in which no row went, from the moment the connection was cut."""

    round: int
    contender: str
    seconds: float


@dataclass(frozen=True)
class Publishing:
    """Commands published by ``configcache.Publisher``, so many awaited at once."""

    round: int
    window: int
    per_s: float


@dataclass(frozen=True)
class Serving:
    """
    Requests served to 64 clients that keep their connections, and how long each waited, in milliseconds. CPU is that of the
    endpoint's process, in ms for 1,000 requests.
    """

    round: int
    contender: str
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu: float


@dataclass(frozen=True)
class Memory:
    """Resident memory of our worker, in MB: the most it had held until then."""

    situation: str
    peak_mb: float


@dataclass(frozen=True)
class Telemetry:
    """One drain by our worker, watched or not. CPU is in ms for 1,000 messages."""

    round: int
    told: str
    """:data:`SCRAPED` or :data:`UNWATCHED`."""
    per_s: float
    worker_cpu: float


@dataclass(frozen=True)
class Results:
    """All of it. A part that was not run is empty."""

    conditions: Conditions
    contenders: list[Drain] = field(default_factory=list)
    workloads: list[Drain] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    publishing: list[Publishing] = field(default_factory=list)
    serving: list[Serving] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    scale: list[Drain] = field(default_factory=list)
    telemetry: list[Telemetry] = field(default_factory=list)


def to_json(results: Results) -> str:
    """*results* as text, with no more digits than were measured."""
    return json.dumps(_rounded(dataclasses.asdict(results)), indent=1) + "\n"


def from_json(text: str) -> Results:
    """What :func:`to_json` wrote."""
    values: dict[str, Any] = json.loads(text)
    conditions = Conditions(**values.pop("conditions"))
    kinds = {name: get_args(kind)[0] for name, kind in get_type_hints(Results).items() if name in values}
    return Results(
        conditions, **{name: [kinds[name](**each) for each in some] for name, some in values.items()}
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
