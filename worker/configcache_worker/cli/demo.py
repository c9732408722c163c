"""``configcache demo``: show it all on private servers."""

from __future__ import annotations

import argparse
import asyncio

from configcache_worker.cli import CommandFailed, manual, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Show the whole thing on a RabbitMQ and a PostgreSQL of its own: fill a cache, run
        a worker, publish commands in two ways and mistakes too, and print what was cached
        before and after, what was dead-lettered and why, and the batches. Nothing is left
        behind.
        """,
        """
        Done means that all of it was as it must be.

        RabbitMQ must be installed. Foreign servers are used instead where
        CONFIGCACHE_TEST_BROKER_URL and CONFIGCACHE_TEST_DATABASE_URL name them; only a
        virtual host and a database called configcache_test_* are touched there.
        """,
    )


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    from configcache_worker.local.demo import demonstrate
    from configcache_worker.local.errors import ServerFailed, ServerUnavailable

    try:
        succeeded = asyncio.run(demonstrate(say))
    except (ServerUnavailable, ServerFailed) as error:
        raise CommandFailed(str(error)) from error
    if not succeeded:
        raise CommandFailed("not everything was as it must be; see the lines that begin with FAIL")
    return 0
