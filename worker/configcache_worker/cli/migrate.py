"""``configcache migrate``: create or update the tables."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from configcache_worker.cli import CommandFailed, add_config_option, load_settings, manual, say

if TYPE_CHECKING:
    from configcache_worker.settings import CacheSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Create the tables in the database, or bring them up to date.

        Each migration is applied once, in a transaction of its own. Safe to repeat,
        and from many places at once: they take turns. A schema that is missing is
        created too. A cache table of your own (cache.table) is never touched, and
        does without; the outbox and watched tables need it all the same.
        """,
        """
        settings: the sections database, cache (for cache.schema)

        example:
          CONFIGCACHE_DATABASE__URL=postgresql://owner:secret@localhost/app \\
          configcache migrate --dry-run
        """,
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="tell what would be applied and change nothing"
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Apply the migrations that are missing."""
    settings = load_settings(args, "database", "cache")

    from configcache_worker.postgres.migrations import ConnectionFailed, MigrationError, migrate

    try:
        migrations = asyncio.run(
            migrate(
                settings.database.url,
                schema=settings.cache.schema_,
                dry_run=args.dry_run,
                connect_timeout_s=settings.database.connect_timeout_s,
            )
        )
    except (ConnectionFailed, MigrationError) as error:
        raise CommandFailed(str(error)) from error
    schema = settings.cache.schema_
    for migration in migrations:
        say(f"{'would apply' if args.dry_run else 'applied'} {migration.name} in schema {schema}")
    if not migrations:
        say(f"schema {schema} is up to date")
    if notice := _untouched(settings.cache):
        say(notice)
    return 0


def _untouched(cache: CacheSettings) -> str | None:
    """What the settings say of the cache table that was not heeded, if anything."""
    from configcache_worker.settings import CacheSettings

    standard = CacheSettings()
    if (cache.table, cache.columns) == (standard.table, standard.columns):
        return None
    name = "cache.table" if cache.table != standard.table else "cache.columns"
    return (
        f"this is about the standard table, {standard.table} with its standard columns; "
        f"the table of your own that {name} describes is not touched"
    )
