"""``configcache worker``: consume commands and clear rows until told to stop."""

from __future__ import annotations

import argparse
import asyncio

from configcache_worker.cli import (
    add_config_option,
    collect_rarely,
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
        Consume ClearConfigurationCache commands and delete the cached rows they name.

        Runs until SIGTERM or SIGINT, then finishes what it has received and ends with
        0; a second signal ends it at once, and the broker hands out again what was not
        finished. Broker, database and tables need not be there when it starts: it
        waits for them. It ends with 1 where waiting would not help: exchanges or queues
        that differ from what is needed, or a table that can't serve.

        Log lines go to standard error. GET /livez, /readyz and /metrics are answered
        on telemetry.host and telemetry.port.
        """,
        """
        settings: the sections broker, database, cache, worker, telemetry

        example:
          CONFIGCACHE_BROKER__URL=amqp://worker:secret@localhost/ \\
          CONFIGCACHE_DATABASE__URL=postgresql://worker:secret@localhost/app \\
          configcache worker
        """,
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run a worker until it has drained."""
    settings = load_settings(args, "broker", "database", "cache", "worker", "telemetry")

    import structlog

    from configcache_worker.app import StartRefused, build_worker

    with observed(settings, service="configcache-worker") as traces:
        collect_rarely()
        try:
            asyncio.run(until_stopped(build_worker(settings, traces=traces)))
        except StartRefused as refusal:
            structlog.stdlib.get_logger().error(
                "worker.refused",
                error=str(refusal),
                consequence="it can't start like this, and does not try again",
            )
            return 1
        except Exception:  # any part of the worker may have died; the log line is what an operator gets
            structlog.stdlib.get_logger().exception(
                "worker.died",
                consequence="what was not settled stays with the broker; start the worker again",
            )
            return 1
    return 0
