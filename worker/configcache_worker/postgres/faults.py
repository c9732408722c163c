"""
What a failure of the database is called, in words fit for a log.

Texts are one line. They hold neither the password nor row data: PostgreSQL puts values of rows into the DETAIL of an
error, so that is left out.
"""

from __future__ import annotations

import asyncpg

from configcache.network import describe_os_error
from configcache_worker.core.ports import TableFault

_LONGEST_TEXT = 300
_QUERY_CANCELED = "57014"

# What asyncpg raises by itself when the server is gone. The last one too: a server that ends an idle connection says so
# in a message that asyncpg, about to send a statement, takes for a breach of its protocol.
_LOST = (OSError, asyncpg.PostgresConnectionError, asyncpg.InternalClientError)


class ConnectionFailed(Exception):
    """
    No connection to the database.

    Attributes:
        sqlstate: The server's SQLSTATE, or None when no answer came from a server.
    """

    def __init__(self, text: str, *, sqlstate: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


def describe(error: BaseException) -> str:
    """What went wrong, in one line for a human."""
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError):
        text = str(error.args[0]) if error.args else ""
    elif isinstance(error, OSError):
        text = describe_os_error(error)
    else:
        text = str(error)
    line = " ".join(text.split()) or type(error).__name__
    state = sqlstate_of(error)
    return line[:_LONGEST_TEXT] if state is None else f"{line[:_LONGEST_TEXT]} (SQLSTATE {state})"


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE a server sent. None for what asyncpg says itself, though some of its classes carry a code too."""
    if isinstance(error, asyncpg.PostgresError) and getattr(error, "severity", None) is not None:
        return error.sqlstate
    return None


def table_fault(error: Exception, *, is_connection_lost: bool) -> TableFault:
    """
    Put the failure of a statement into the core's words. The caller chains the cause.

    Args:
        error: What asyncpg raised, or what went wrong in calling it.
        is_connection_lost: The connection was closed when it did.
    """
    state = sqlstate_of(error)
    if state is not None:
        return TableFault(describe(error), sqlstate=state, timed_out=state == _QUERY_CANCELED)
    if isinstance(error, _LOST) or (isinstance(error, asyncpg.InterfaceError) and is_connection_lost):
        return TableFault(f"connection to the database lost: {describe(error)}")
    return TableFault(f"{type(error).__name__}: {describe(error)}", unexpected=True)
