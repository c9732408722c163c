"""Databases with the tables in them."""

import asyncio

from configcache_worker.postgres.migrations import migrate


def migrated(url):
    """Prepare the database at *url* as ``configcache migrate`` does: for ``Servers.database``."""
    asyncio.run(migrate(url, schema="public"))
