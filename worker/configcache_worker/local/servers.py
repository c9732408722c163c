"""
The broker and the database that tests run on: one pair for all of them, a virtual host and a database for each.

The pair is private unless ``CONFIGCACHE_TEST_BROKER_URL`` or ``CONFIGCACHE_TEST_DATABASE_URL`` lends a foreign server;
on those, only virtual hosts and databases named ``configcache_test_*`` are created and dropped. The settings of the
program itself are never read: they may well name the servers of a production.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from configcache_worker.local.errors import ServerUnavailable
from configcache_worker.local.foreign import ForeignPostgreSQL, ForeignRabbitMQ
from configcache_worker.local.postgres import PostgreSQL
from configcache_worker.local.rabbitmq import RabbitMQ

BROKER_VARIABLE = "CONFIGCACHE_TEST_BROKER_URL"
DATABASE_VARIABLE = "CONFIGCACHE_TEST_DATABASE_URL"

Prepare = Callable[[str], None]
"""Fills the empty database at the URL it is given, and disconnects from it."""


class Servers:
    """
    A broker and a database server, each started when first asked for.

    Safe to use from several threads; asynchronous callers use :func:`asyncio.to_thread`, since starting takes seconds
    and a database some tenths of one.

    Args:
        broker_url: A foreign broker to use, or None to start a private one.
        database_url: The same for the database.
    """

    def __init__(self, *, broker_url: str | None = None, database_url: str | None = None) -> None:
        self._rabbitmq = RabbitMQ()
        self._postgres = PostgreSQL()
        self._foreign_broker = ForeignRabbitMQ(broker_url) if broker_url else None
        self._foreign_database = ForeignPostgreSQL(database_url) if database_url else None
        self._templates: dict[Prepare, str] = {}
        self._broker_lock = threading.Lock()
        self._database_lock = threading.Lock()
        self._template_lock = threading.Lock()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The servers that *environment* names, private ones for those that it does not."""
        return cls(
            broker_url=environment.get(BROKER_VARIABLE), database_url=environment.get(DATABASE_VARIABLE)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def rabbitmq(self) -> RabbitMQ:
        """
        The private broker, running.

        Raises:
            ServerUnavailable: RabbitMQ is not installed, or the broker is foreign: not ours to stop or look into.
        """
        if self._foreign_broker:
            raise ServerUnavailable(
                f"this needs a broker of its own, and {BROKER_VARIABLE} lends a foreign one"
            )
        with self._broker_lock:
            self._rabbitmq.start()
        return self._rabbitmq

    @property
    def postgres(self) -> PostgreSQL:
        """
        The private database server, running.

        Raises:
            ServerUnavailable: No PostgreSQL is here, or the server is foreign: not ours to stop or look into.
        """
        if self._foreign_database:
            raise ServerUnavailable(
                f"this needs a database of its own, and {DATABASE_VARIABLE} lends a foreign one"
            )
        with self._database_lock:
            self._postgres.start()
        return self._postgres

    def start(self) -> None:
        """Start what is private, both at the same time. Optional: either starts when it is first needed."""
        with ThreadPoolExecutor() as pool:
            broker, database = pool.submit(self._broker), pool.submit(self._database)
            broker.result()
            database.result()

    def stop(self) -> None:
        """Drop what was created and end what was started. Safe to repeat."""
        if self._foreign_database:
            for template in self._templates.values():
                self._foreign_database.drop_database(template)
        self._templates.clear()
        self._rabbitmq.close()
        self._postgres.close()

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """A new virtual host, its URL; gone afterwards."""
        name = _new_name()
        url = self._broker().create_vhost(name)
        try:
            yield url
        finally:
            # Asked for anew: a test may have left the broker down.
            self._broker().delete_vhost(name)

    @contextmanager
    def database(self, prepare: Prepare | None = None) -> Iterator[str]:
        """
        A new database, its URL; gone afterwards, with what is still connected to it.

        Args:
            prepare: What fills it. It runs once, on a template that every database with the same *prepare* is a copy
                of. None for an empty database.
        """
        name = _new_name()
        template = self._template(prepare) if prepare else None
        url = self._database().create_database(name, template)
        try:
            yield url
        finally:
            self._database().drop_database(name)

    def _template(self, prepare: Prepare) -> str:
        server = self._database()
        with self._template_lock:
            if prepare not in self._templates:
                name = _new_name("template_")
                prepare(server.create_database(name))
                self._templates[prepare] = name
            return self._templates[prepare]

    def _broker(self) -> _Broker:
        return self._foreign_broker or self.rabbitmq

    def _database(self) -> _Database:
        return self._foreign_database or self.postgres


class _Broker(Protocol):
    def create_vhost(self, name: str) -> str: ...
    def delete_vhost(self, name: str) -> None: ...


class _Database(Protocol):
    def create_database(self, name: str, template: str | None = None) -> str: ...
    def drop_database(self, name: str) -> None: ...


def _new_name(kind: str = "") -> str:
    return f"configcache_test_{kind}{secrets.token_hex(6)}"
