"""Administer a database server, private or foreign, by PostgreSQL's own client."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from configcache_worker.local import programs
from configcache_worker.local.process import run


def create_database(url: str, name: str, template: str | None = None, *, strategy: str | None = None) -> None:
    """Create a database on the server that *url* names: empty, or a copy of *template*, by the *strategy* if given."""
    how = f" STRATEGY {strategy}" if strategy else ""
    execute(url, f"CREATE DATABASE {_quoted(name)} TEMPLATE {_quoted(template or 'template0')}{how}")


def drop_database(url: str, name: str) -> None:
    """Drop a database of the server that *url* names, ending its connections. Nothing happens if there is none."""
    execute(url, f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    """
    Execute one statement by psql: it is synchronous, and there wherever the server's programs are.

    The password goes by the environment: arguments are in the list of processes, for all to see.
    """
    parts = urlsplit(url)
    without_password = parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@", 1)).geturl()
    environment = {**os.environ, "PGOPTIONS": "--client-min-messages=warning"}
    if parts.password:
        environment["PGPASSWORD"] = unquote(parts.password)
    psql = str(programs.postgres_programs() / "psql")
    options = [
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        f"--dbname={without_password}",
        f"--command={statement}",
    ]
    run([psql, *options], environment)


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
