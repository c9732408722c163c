"""``configcache gateway``: serve the classic HTTP call until told to stop."""

from __future__ import annotations

import argparse
import asyncio

from configcache_worker.cli import add_config_option, load_settings, manual, until_stopped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Serve POST /api/v1/Agents/Configuration/ClearConfigurationCache for clients that
        know only the HTTP API: find out who calls, read the body, publish the command.
        204 is answered when the broker has confirmed it and put it into the queue, and
        in no other case; while the broker is away, 503 with Retry-After.

        Runs until SIGTERM or SIGINT, then finishes the requests that have begun and ends
        with 0; a second signal ends it at once. The broker need not be there when it
        starts. Several may run side by side. On the broker it needs the rights of a
        producer; it never touches the cache table.

        Listens on gateway.host and gateway.port (127.0.0.1 and 8080). Behind a proxy set
        gateway.forwarded_allow_ips; for HTTPS gateway.tls_certificate and
        gateway.tls_key. GET /api/v1/openapi.json describes the call.

        Log lines go to standard error, one for each request. GET /livez and /readyz are
        answered on telemetry.host and telemetry.port (9465 unless one is set).
        """,
        """
        settings: the sections broker, gateway, telemetry

        example:
          CONFIGCACHE_BROKER__URL=amqp://producer:secret@localhost/ \\
          CONFIGCACHE_GATEWAY__HOST=0.0.0.0 \\
          configcache gateway
        """,
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run a gateway until it has been stopped."""
    settings = load_settings(args, "broker", "gateway", "telemetry")

    import structlog

    from configcache_worker.app import StartRefused, build_gateway
    from configcache_worker.observe import logs

    logs.configure(settings.telemetry.log_format, settings.telemetry.log_level)
    try:
        asyncio.run(until_stopped(build_gateway(settings)))
    except StartRefused as refusal:
        structlog.stdlib.get_logger().error(
            "gateway.refused_start",
            error=str(refusal),
            consequence="it can't start like this, and does not try again",
        )
        return 1
    except Exception:  # any part of the gateway may have died; the log line is what an operator gets
        structlog.stdlib.get_logger().exception(
            "gateway.died", consequence="requests that had begun got no answer; start the gateway again"
        )
        return 1
    return 0
