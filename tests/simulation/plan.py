"""What a seed stands for: the workload, the bounds, and how foul the weather is."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from configcache.wire import COMMAND_PROPERTIES, Properties, Reason
from configcache_worker.core.bounds import Limits
from configcache_worker.core.ports import Scope

APPLICATIONS = ("Mobile", "WebClient")
INSTANCES = ("Intranet", "Web")
ASSOCIATES = range(1, 6)

# What the environment says when it fails: no answer at all, deadlock, shutdown, read-only, no table, no rights, disk full,
# too many connections, lock not available, internal error.
OUTAGES = (None, "40P01", "57P01", "25006", "42P01", "42501", "53100", "53300", "55P03", "XX000")


@dataclass(frozen=True)
class Parcel:
    """A message to publish."""

    body: bytes
    properties: Properties
    scope: Scope | None
    """What it asks to clear; None if it is poison."""
    reason: Reason | None = None
    """Of poison: the word that must be on its letter."""
    refusal: Reason | None = None
    """Of poison that the rim can't keep or read: it is rejected as it is."""
    unencodable: bool = False
    """Its letter can't be written."""
    returns: int = 0
    """How often the broker has taken it back before the schedule begins."""


@dataclass(frozen=True)
class Weather:
    """Rates of what may happen, most of them none in most schedules. Rates are for each turn or each call."""

    cut: float = 0.0
    """Connections lost."""
    broker_outage: float = 0.0
    """Begin of a time in which nobody can connect; all connections are lost."""
    kill: float = 0.0
    """Workers killed."""
    stop: float = 0.0
    """Workers asked to stop."""
    cancel: float = 0.0
    """Workers cancelled."""
    consumer_timeout: float = 0.0
    table_outage: float = 0.0
    """Begin of a time in which nothing can be written."""
    table_fault: float = 0.0
    """A single statement fails, as in an outage."""
    table_doubt: float = 0.0
    """A statement commits, and nobody hears of it."""
    table_timeout: float = 0.0
    """A statement takes too long. It may go on and commit behind our back."""
    table_bug: float = 0.0
    """Our own code fails in a way that it reports."""
    worker_bug: float = 0.0
    """Our own code fails in a way that ends the worker."""
    letters_outage: float = 0.0
    """Begin of a time in which no letter is taken."""
    letters_fault: float = 0.0
    """A single letter is not confirmed."""
    letters_doubt: float = 0.0
    """A letter is taken, and its confirm is lost."""


@dataclass(frozen=True)
class Plan:
    """One schedule's beginning. Everything else follows from the seed."""

    workers: int
    version: str
    """Whose way of counting deliveries: 3.10, 4.0 or 4.3."""
    limits: Limits
    weather: Weather
    parcels: tuple[Parcel, ...]
    items: int
    """Items that an associate may have cached."""
    filled: float
    """How many of them are cached at the beginning, of 1."""
    storm_s: float
    """How long faults come. What is published comes within this time."""
    refused: frozenset[int] = frozenset()
    """Associates whose rows a trigger will not let go."""
    held: frozenset[int] = frozenset()
    """Associates whose rows somebody has locked, longer than the storm lasts."""
    trigger_refuses_all: bool = False
    """A trigger that lets no row go, until the storm is over."""
    letters_stay_away: bool = False
    """No letter is taken for longer than the storm lasts."""
    most_scopes: int | None = None
    """A statement of more scopes takes too long."""
    most_rows: int | None = None
    """A statement that is asked for more rows takes too long, if there are more."""


def make_plan(rng: random.Random) -> Plan:
    """Draw a plan: small bounds, so that each of them is reached."""
    trouble = rng.choice(["none", "refused", "held", "trigger", "letters", "size", "size"])
    max_held_bytes = rng.choice([800, 800, 800, 4_000] if trouble == "letters" else [800, 4_000, 100_000])
    return Plan(
        workers=rng.choice([1, 1, 2, 3]),
        version=rng.choice(["3.10", "4.0", "4.3"]),
        limits=Limits(
            # A worker full of nothing but refused commands has no contrast, and waits as in an outage.
            prefetch=rng.choice([60, 200] if trouble == "refused" else [4, 12, 60, 200]),
            batch=rng.choice([1, 4, 20, 100]),
            chunk_rows=rng.choice([2, 5, 50, 400]),
            max_held_bytes=max_held_bytes,
        ),
        weather=_make_weather(rng),
        # Where no letter is taken, so much poison that it would not be held without a bound.
        parcels=tuple(
            _make_parcel(rng, poison=0.6 if trouble == "letters" else 0.2)
            for _ in range(rng.choice([5, 20, 60]))
        ),
        items=rng.choice([1, 1, 3, 60]) if trouble == "size" else rng.choice([1, 1, 3]),
        filled=rng.choice([0.3, 1.0]),
        storm_s=rng.choice([0.5, 3.0, 10.0]),
        refused=frozenset({rng.choice(ASSOCIATES)}) if trouble == "refused" else frozenset(),
        held=frozenset(rng.sample(ASSOCIATES, rng.choice([1, 3]))) if trouble == "held" else frozenset(),
        trigger_refuses_all=trouble == "trigger",
        letters_stay_away=trouble == "letters",
        most_scopes=rng.choice([1, 3]) if trouble == "size" else None,
        most_rows=rng.choice([100, 150]) if trouble == "size" else None,
    )


def _make_weather(rng: random.Random) -> Weather:
    def sometimes(*rates: float) -> float:
        return rng.choice(rates) if rng.random() < 0.3 else 0.0

    return Weather(
        cut=sometimes(0.002, 0.01, 0.05),
        broker_outage=sometimes(0.001, 0.005),
        kill=sometimes(0.001, 0.005, 0.02),
        stop=sometimes(0.001, 0.005, 0.02),
        cancel=sometimes(0.001, 0.01),
        consumer_timeout=sometimes(0.001, 0.005),
        table_outage=sometimes(0.001, 0.01),
        table_fault=sometimes(0.05, 0.3, 0.6),
        table_doubt=sometimes(0.05, 0.3),
        table_timeout=sometimes(0.05, 0.3),
        table_bug=sometimes(0.05, 0.2),
        worker_bug=sometimes(0.01, 0.1),
        letters_outage=sometimes(0.001, 0.01),
        letters_fault=sometimes(0.1, 0.5),
        letters_doubt=sometimes(0.1, 0.5),
    )


def _make_parcel(rng: random.Random, *, poison: float) -> Parcel:
    returns = rng.choice([0, 0, 0, 0, 9, 12, 19])
    if rng.random() < poison:
        return _make_poison(rng, returns)
    application, instance = rng.choice(APPLICATIONS), rng.choice(INSTANCES)
    if rng.random() < 0.15:
        return clear(Scope(application, instance, None), returns=returns)
    scope = Scope(application, instance, rng.choice(ASSOCIATES))
    return clear(scope, padding=5_000 if rng.random() < 0.05 else 0, returns=returns)


def clear(scope: Scope, *, padding: int = 0, returns: int = 0) -> Parcel:
    """A good command, made longer by white space that JSON doesn't mind."""
    wanted: dict[str, object] = {"Application": scope.application, "Instance": scope.instance}
    if scope.associate_id is None:
        wanted["ForAllAssociates"] = True
    else:
        wanted["AssociateId"] = scope.associate_id
    body = json.dumps(wanted).encode() + b" " * padding
    return Parcel(body, COMMAND_PROPERTIES, scope, returns=returns)


def _make_poison(rng: random.Random, returns: int) -> Parcel:
    # Up to an eighth of the smallest bound of what is held. In reality it is less than a twelfth.
    padding = b" " * rng.choice([0, 0, 56])
    narrow = b'{"Application":"WebClient","Instance":"Web"}'
    good = b'{"Application": "WebClient", "Instance": "Web", "AssociateId": 1}'
    kind = rng.randrange(6)
    if kind == 0:
        return Parcel(b"{" + padding, COMMAND_PROPERTIES, None, Reason.INVALID_JSON, returns=returns)
    if kind == 1:
        return Parcel(narrow + padding, COMMAND_PROPERTIES, None, Reason.MISSING_ASSOCIATE, returns=returns)
    if kind == 2:
        other = Properties(content_type="text/plain")
        return Parcel(narrow, other, None, Reason.UNSUPPORTED_CONTENT_TYPE, returns=returns)
    if kind == 3:
        unreadable = Reason.UNREADABLE_PROPERTIES
        return Parcel(narrow, COMMAND_PROPERTIES, None, unreadable, refusal=unreadable, returns=returns)
    if kind == 4:
        other = COMMAND_PROPERTIES._replace(type="SomethingElse")
        return Parcel(good, other, None, Reason.WRONG_MESSAGE_TYPE, returns=returns)
    return Parcel(
        narrow, COMMAND_PROPERTIES, None, Reason.MISSING_ASSOCIATE, unencodable=True, returns=returns
    )
