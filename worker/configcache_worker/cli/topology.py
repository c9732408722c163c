"""``configcache topology``: create or check the exchanges and queues."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from configcache_worker.cli import CommandFailed, add_config_option, load_settings, manual, say

if TYPE_CHECKING:
    from configcache_worker.rabbitmq.declare import Report
    from configcache_worker.settings import BrokerSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Create the exchanges, queues and bindings on the broker, as a user with the
        rights to do so. What is there already is compared first; where anything
        differs, nothing is changed. Safe to repeat.

        With --check nothing is created: what is missing or different is told.
        Bindings can't be asked for, and arguments only be compared by a user who
        could have declared them.
        """,
        """
        settings: the section broker

        example:
          CONFIGCACHE_BROKER__URL=amqp://admin:secret@localhost/ configcache topology
        """,
    )
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 if anything is not right")
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Declare the topology, or compare it."""
    broker = load_settings(args, "broker").broker

    from configcache.connection import BrokerUnavailable

    try:
        report = asyncio.run(_report(broker, only_check=args.check))
    except BrokerUnavailable as error:
        raise CommandFailed(str(error)) from error
    for entity in report.created:
        say(f"created {type(entity).__name__.lower()} {entity.name}")
    if report.findings:
        lines = (f"{finding.name} is {finding.problem.value}: {finding.text}" for finding in report.findings)
        raise CommandFailed("\n".join(lines))
    say(_verdict(report))
    return 0


def _verdict(report: Report) -> str:
    if report.uncompared:
        exists = "all of it exists"
        if report.hidden:
            exists = f"nothing is missing that this user may look at (not at {', '.join(report.hidden)})"
        names = ", ".join(report.uncompared)
        return (
            f"{exists}; its arguments could not be compared: this user lacks the configure right on {names}"
        )
    if report.created:
        return "the topology is as it must be"
    return "the topology is as it must be: all of it was there"


async def _report(broker: BrokerSettings, *, only_check: bool) -> Report:
    from configcache.connection import close_connection, connect
    from configcache_worker.rabbitmq.declare import Report, TopologyError, create, examine

    connection = await connect(
        broker.url,
        name="configcache topology",
        timeout_s=broker.connect_timeout_s,
        heartbeat_s=broker.heartbeat_s,
    )
    try:
        if only_check:
            return await examine(connection)
        return await create(connection)
    except TopologyError as error:
        return Report(findings=error.findings)
    finally:
        await close_connection(connection)
