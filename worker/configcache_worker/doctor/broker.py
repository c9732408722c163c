"""What a worker would meet on the broker, as far as AMQP tells."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from configcache.connection import BrokerUnavailable
from configcache.topology import (
    COMMAND_QUEUE,
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_QUEUE,
    EVENT_EXCHANGE,
    TOPOLOGY,
    WORKER_PERMISSIONS,
)
from configcache_worker.doctor.findings import Finding, Report, State
from configcache_worker.rabbitmq import inspection
from configcache_worker.rabbitmq.inspection import BrokerBlocked, Counts, Inspection, Problem
from configcache_worker.settings import BrokerSettings

BROKER: Final = "broker"
TOPOLOGY_PRESENT: Final = "topology"
ARGUMENTS: Final = "arguments"
QUEUE: Final = "queue"
CONSUMERS: Final = "consumers"
DEAD_LETTERS: Final = "dead-letters"
ALARMS: Final = "alarms"
RIGHTS: Final = "broker-rights"

CHECKS: Final = (
    BROKER,
    TOPOLOGY_PRESENT,
    ARGUMENTS,
    QUEUE,
    CONSUMERS,
    DEAD_LETTERS,
    ALARMS,
    RIGHTS,
)

_FIRST_RELEASE: Final = (3, 10)
"""The first with at-least-once dead-lettering."""

_DECLARE: Final = "configcache topology"


async def examine(broker: BrokerSettings, report: Report) -> None:
    """Examine the broker of *broker*, and stop where it does not answer any more."""
    user = User(broker.url)
    try:
        async with Inspection(
            broker.url, timeout_s=broker.connect_timeout_s, heartbeat_s=broker.heartbeat_s
        ) as looking:
            report(product(looking, user))
            missing = await _topology(looking, user, report)
            await _queues(looking, user, missing, report)
            # Last, since a broker with an alarm takes nothing any more from who has tried to publish.
            report(await _rights(looking, user))
            report(Finding(ALARMS, State.OK, "publishers are not blocked"))
    except BrokerBlocked as error:
        report(Finding(ALARMS, State.WRONG, str(error), "rabbitmq-diagnostics alarms"))
    except BrokerUnavailable as error:
        report(
            Finding(BROKER, State.WRONG, str(error), "start RabbitMQ, or set CONFIGCACHE_BROKER__URL right")
        )


class User:
    """Who the URL says we are, and where."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.name = unquote(parts.username or "guest")
        self.vhost = unquote(parts.path.removeprefix("/")) or "/"

    def ctl(self, verb: str, *arguments: str) -> str:
        """A ``rabbitmqctl`` command in this virtual host, as a shell takes it."""
        return shlex.join(["rabbitmqctl", verb, "--vhost", self.vhost, *arguments])


def product(looking: Inspection, user: User) -> Finding:
    """What answers, and whether it is a broker that loses nothing."""
    found = looking.product()
    text = f"{found.name} {found.version}, virtual host {user.vhost}, user {user.name}"
    if found.name != "RabbitMQ":
        return Finding(
            BROKER, State.WARNING, f"{text}; the worker was tried with RabbitMQ alone", "use RabbitMQ"
        )
    if found.release < _FIRST_RELEASE:
        return Finding(
            BROKER,
            State.WRONG,
            f"{text}; it would lose dead letters: at-least-once dead-lettering came with 3.10",
            "update RabbitMQ",
        )
    return Finding(BROKER, State.OK, text)


async def _topology(looking: Inspection, user: User, report: Report) -> set[str]:
    """Report what is missing or different, and give back the names of what is missing."""
    findings = await looking.check_topology()
    missing = {finding.name for finding in findings if finding.problem is Problem.MISSING}
    different = [finding for finding in findings if finding.problem is Problem.DIFFERENT]
    if missing:
        report(Finding(TOPOLOGY_PRESENT, State.WRONG, f"missing: {', '.join(sorted(missing))}", _DECLARE))
    elif hidden := await looking.hidden():
        report(
            Finding(
                TOPOLOGY_PRESENT,
                State.OK,
                f"nothing is missing that user {user.name} may look at (not at {', '.join(hidden)})",
            )
        )
    else:
        report(Finding(TOPOLOGY_PRESENT, State.OK, "all exchanges and queues are there"))
    report(await _arguments(looking, user, missing, different))
    return missing


async def _arguments(
    looking: Inspection, user: User, missing: set[str], different: Sequence[inspection.Finding]
) -> Finding:
    if different:
        return Finding(
            ARGUMENTS,
            State.WRONG,
            "; ".join(finding.text for finding in different),
            f"empty and delete {', '.join(finding.name for finding in different)}, then {_DECLARE}",
        )
    if missing:
        return Finding(ARGUMENTS, State.SKIPPED, "not compared until all is there", _DECLARE)
    if not all([await looking.may_declare(queue) for queue in TOPOLOGY.queues]):
        return Finding(
            ARGUMENTS,
            State.SKIPPED,
            f"not compared: that takes the right to configure, which user {user.name} lacks and a worker does not need",
            f"{_DECLARE} --check, as a user with set-up rights",
        )
    return Finding(ARGUMENTS, State.OK, "as in the contract")


async def _rights(looking: Inspection, user: User) -> Finding:
    lacking = []
    if not await looking.may_consume(COMMAND_QUEUE):
        lacking.append(f"read {COMMAND_QUEUE}")
    if not await looking.may_publish(DEAD_LETTER_EXCHANGE):
        lacking.append(f"write to {DEAD_LETTER_EXCHANGE}")
    # Events are hints: without them nothing is left uncleared.
    state = State.WRONG if lacking else State.WARNING
    if not await looking.may_publish(EVENT_EXCHANGE):
        lacking.append(f"write to {EVENT_EXCHANGE}")
    if not lacking:
        return Finding(RIGHTS, State.OK, f"user {user.name} may do what a worker does")
    rights = WORKER_PERMISSIONS
    return Finding(
        RIGHTS,
        state,
        f"user {user.name} may not {', '.join(lacking)}",
        user.ctl("set_permissions", user.name, rights.configure, rights.write, rights.read),
    )


async def _queues(looking: Inspection, user: User, missing: set[str], report: Report) -> None:
    commands = await _counts(looking, user, missing, COMMAND_QUEUE)
    if isinstance(commands, str):
        report(Finding(QUEUE, State.SKIPPED, commands))
        report(Finding(CONSUMERS, State.SKIPPED, commands))
    else:
        report(Finding(QUEUE, State.OK, _counted(commands.ready, "command waits", "commands wait")))
        report(_consumers(commands.consumers))
    letters = await _counts(looking, user, missing, DEAD_LETTER_QUEUE)
    if isinstance(letters, str):
        report(Finding(DEAD_LETTERS, State.SKIPPED, letters))
    else:
        report(_dead_letters(letters.ready))


async def _counts(looking: Inspection, user: User, missing: set[str], queue: str) -> Counts | str:
    """How full *queue* is, or why that can't be told."""
    if queue in missing:
        return f"not checked: {queue} is missing"
    counts = await looking.counts(queue)
    return f"not checked: user {user.name} may not look at {queue}" if counts is None else counts


def _consumers(count: int) -> Finding:
    if count:
        return Finding(CONSUMERS, State.OK, _counted(count, "worker consumes", "workers consume"))
    return Finding(
        CONSUMERS, State.WARNING, "no worker consumes; commands wait in the queue", "configcache worker"
    )


def _dead_letters(count: int) -> Finding:
    text = _counted(count, "message waits", "messages wait") + f" in {DEAD_LETTER_QUEUE}"
    if not count:
        return Finding(DEAD_LETTERS, State.OK, text)
    return Finding(
        DEAD_LETTERS,
        State.WARNING,
        text,
        "`configcache dead-letters list` says why, and `show` what can be done",
    )


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
