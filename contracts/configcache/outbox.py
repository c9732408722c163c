"""
Ask for a clear in your own transaction: the change of the configuration and the command are one commit, or neither.

The command becomes a row of the table that ``configcache migrate`` creates; ``configcache relay`` publishes it after the
commit. Nothing here knows a database driver: whatever has ``execute(sql)`` will do.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from configcache.command import ClearConfigurationCache

__all__ = ["Connection", "enqueue", "statement"]


class Connection(Protocol):
    """What :func:`enqueue` needs of a connection: asyncpg's, psycopg's ``AsyncConnection``, their pools' and others."""

    # Not str: psycopg's own annotation wants literals, and a type checker would refuse its connections.
    def execute(self, query: Any, /) -> Awaitable[object]:  # noqa: ANN401
        """Execute one statement, a ``str`` without parameters."""
        ...


async def enqueue(
    connection: Connection, command: ClearConfigurationCache, *, schema: str | None = None
) -> None:
    """
    Ask for *command* in the transaction that is open on *connection*. Always one more row, also for an equal command.

    Without an open transaction it is one of its own. Connections that do not await have ``configcache.blocking.enqueue``.

    Args:
        connection: The caller's. Nothing is committed here.
        command: What to clear.
        schema: Where the outbox is, if the connection's ``search_path`` does not lead to it.

    Raises:
        Exception: The driver's own, as it comes: not migrated, no right to execute the function, connection lost.
    """
    await connection.execute(statement(command, schema=schema))


def statement(command: ClearConfigurationCache, *, schema: str | None = None) -> str:
    """
    The SQL that enqueues *command*, for whatever executes SQL.

    It has no parameters, since every driver spells them differently. All in it is ASCII, and of a name only letters,
    digits and a few harmless characters stand as they are: there is nothing that a server, whatever its settings, a
    driver with placeholders, or an encoding could read in another way.
    """
    function = "enqueue_clear_configuration_cache"
    if schema is not None:
        function = f"{_identifier(schema)}.{function}"
    return (
        f"SELECT {function}({_literal(command.application)}, {_literal(command.instance)},"
        f" {str(command.for_all_associates).lower()}, {_number(command.associate_id)})"
    )


def _number(associate_id: int | None) -> str:
    return "NULL" if associate_id is None else str(int(associate_id))


def _literal(text: str) -> str:
    return f"E'{_escaped(text)}'"


def _identifier(name: str) -> str:
    if not name or "\0" in name:
        raise ValueError("schema must be the name of a schema, not empty and without NUL")
    # U&"" would depend on a setting of the session; what is escaped in text is refused in a name instead.
    if not all(character.isalnum() or character in " _-" for character in name):
        raise ValueError(f"schema must consist of letters, digits, spaces, _ and -, not {name!r}")
    return f'"{name}"'


def _escaped(text: str) -> str:
    return "".join(
        character
        if character.isascii() and (character.isalnum() or character in " _-.")
        else f"\\U{ord(character):08X}"
        for character in text
    )
