"""``configcache gateway``: serve the classic HTTP call until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys

from configcache_worker.cli import (
    WrongUsage,
    add_config_option,
    collect_rarely,
    load_settings,
    manual,
    observed,
    say,
    until_stopped,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Serve POST /api/v1/Agents/Configuration/ClearConfigurationCache for clients that
        know only the HTTP API: find out who calls, read the body, publish the command.
        204 is answered when the broker has confirmed it and put it into the queue, and
        in no other case; while the broker is away, 503 with Retry-After.

        Who calls is told by user and password (Basic), a ticket (SoTicket), a token
        (Bearer) or a session; gateway.installation says which of them are accepted. All
        but tokens are looked up in the database, in the view gateway_credential, on
        which SELECT is all the right it needs there.

        Runs until SIGTERM or SIGINT, then finishes the requests that have begun and ends
        with 0; a second signal ends it at once. The broker need not be there when it
        starts. Several may run side by side. On the broker it needs the rights of a
        producer; it never touches the cache table.

        Listens on gateway.host and gateway.port (127.0.0.1 and 8080). Behind a proxy set
        gateway.forwarded_allow_ips; for HTTPS gateway.tls_certificate and
        gateway.tls_key. GET /api/v1/openapi.json describes the call.

        Log lines go to standard error: one for each request that was not served, and
        with the level debug one for every request. GET /livez, /readyz and /metrics are
        answered on telemetry.host and telemetry.port (9465 unless one is set).
        """,
        """
        settings: the sections broker, gateway, telemetry; where anything but Bearer is
          accepted, database, and cache (for cache.schema)

        example:
          CONFIGCACHE_BROKER__URL=amqp://producer:secret@localhost/ \\
          CONFIGCACHE_DATABASE__URL=postgresql://gateway:secret@localhost/app \\
          configcache gateway
        """,
    )
    parser.add_argument(
        "--hash-password",
        action="store_true",
        help="read a password from standard input instead, and print what to store of it in secret_hash",
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run a gateway until it has been stopped."""
    if args.hash_password:
        return _hash_password()
    looked_up = load_settings(args, "gateway").gateway.needs_database
    settings = load_settings(
        args, "broker", *(("database", "cache") if looked_up else ()), "gateway", "telemetry"
    )

    import structlog

    from configcache_worker.app import StartRefused, build_gateway

    with observed(settings, service="configcache-gateway") as traces:
        collect_rarely()
        try:
            asyncio.run(until_stopped(build_gateway(settings, traces=traces)))
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


def _hash_password() -> int:
    from configcache_worker.gateway.passwords import hash_password

    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise WrongUsage("a password is needed on standard input")
    say(hash_password(password))
    return 0
