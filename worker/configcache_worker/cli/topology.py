"""``configcache topology``: create or check the exchanges and queues."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configcache_worker.cli import CommandFailed, add_config_option, load_settings, manual

if TYPE_CHECKING:
    from configcache_worker.rabbitmq.declare import Finding
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
        findings = asyncio.run(_findings(broker, only_check=args.check))
    except BrokerUnavailable as error:
        raise CommandFailed(str(error)) from error
    if findings:
        lines = (f"{finding.name} is {finding.problem.value}: {finding.text}" for finding in findings)
        raise CommandFailed("\n".join(lines))
    print("the topology is as it must be")
    return 0


async def _findings(broker: BrokerSettings, *, only_check: bool) -> Sequence[Finding]:
    from configcache.connection import close_connection, connect
    from configcache_worker.rabbitmq.declare import TopologyError, check, declare

    connection = await connect(
        broker.url,
        name="configcache topology",
        timeout_s=broker.connect_timeout_s,
        heartbeat_s=broker.heartbeat_s,
    )
    try:
        if only_check:
            return await check(connection)
        await declare(connection, may_declare=True)
    except TopologyError as error:
        return error.findings
    finally:
        await close_connection(connection)
    return ()
