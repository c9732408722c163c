"""``configcache relay``: publish what is in the outbox until told to stop."""

from __future__ import annotations

import argparse
import asyncio

from configcache_worker.cli import (
    add_config_option,
    load_settings,
    manual,
    observed,
    until_stopped,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Publish the commands of the outbox: those that a transaction has enqueued by
        enqueue_clear_configuration_cache(), or by changing a watched table.

        Runs until SIGTERM or SIGINT, then finishes the rows it has taken and ends with
        0; a second signal ends it at once, and the rows are taken again. Broker,
        database and tables need not be there when it starts: it waits for them.
        Several may run side by side.

        The database is told to notify it, so it needs a connection of its own: not
        through PgBouncer in transaction mode. Rights: SELECT, UPDATE and DELETE on
        configuration_cache_outbox, and on the broker those of a producer.

        Log lines go to standard error. GET /livez, /readyz and /metrics are answered
        on telemetry.host and telemetry.port (9466 unless one is set).
        """,
        """
        settings: the sections broker, database, cache (for cache.schema), relay,
          telemetry

        example:
          CONFIGCACHE_BROKER__URL=amqp://producer:secret@localhost/ \\
          CONFIGCACHE_DATABASE__URL=postgresql://relay:secret@localhost/app \\
          configcache relay
        """,
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run a relay until it has been stopped."""
    settings = load_settings(args, "broker", "database", "cache", "relay", "telemetry")

    import structlog

    from configcache_worker.app import StartRefused, build_relay

    with observed(settings, service="configcache-relay") as traces:
        try:
            asyncio.run(until_stopped(build_relay(settings, traces=traces)))
        except StartRefused as refusal:
            structlog.stdlib.get_logger().error(
                "relay.refused",
                error=str(refusal),
                consequence="it can't start like this, and does not try again",
            )
            return 1
        except Exception:  # any part of the relay may have died; the log line is what an operator gets
            structlog.stdlib.get_logger().exception(
                "relay.died", consequence="what was not published is in the outbox; start the relay again"
            )
            return 1
    return 0
