"""
The credentials in PostgreSQL, as the gateway looks them up: one read-only view, over whatever tables.

The names of the columns are the contract with those who bring tables of their own; what they mean is written in
``sql/0005_gateway_credential.sql``. Over one connection, which is opened when it is needed: what was verified is remembered
by the gateway, so look-ups are few.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from configcache_worker.core.ports import TableFault
from configcache_worker.postgres.connection import Connection, TimeLimits
from configcache_worker.postgres.statements import quoted

if TYPE_CHECKING:
    from asyncpg import Record

__all__ = [
    "CREDENTIAL_VIEW",
    "CredentialKind",
    "CredentialsUnavailable",
    "PostgresCredentials",
    "StoredCredential",
]

CredentialKind: TypeAlias = Literal["password", "ticket", "app-token", "session"]

CREDENTIAL_VIEW: Final = "gateway_credential"

_SESSION: Final = {"default_transaction_read_only": "on", "jit": "off"}

_UNDEFINED_TABLE: Final = "42P01"

# Two rows are enough to know that there are several. By the server's clock, which expires_at was written by; infinity is
# not a time to subtract from.
_SELECT: Final = """\
SELECT name, secret_hash, associate_id, may_clear_all,
    CASE
        WHEN expires_at <= clock_timestamp() THEN 0
        WHEN isfinite(expires_at) THEN extract(epoch FROM expires_at - clock_timestamp())::float8
    END AS expires_in_s
FROM {view} WHERE kind = $1::text AND {column} = $2::text LIMIT 2"""


class StoredCredential(NamedTuple):
    """A row of the view."""

    name: str
    secret_hash: str
    associate_id: int | None
    may_clear_all: bool | None
    expires_in_s: float | None
    """0: it has expired. None: it never does."""


class CredentialsUnavailable(Exception):
    """Nobody could be looked up: the environment's fault, no caller's. The text is one line for the log."""


class PostgresCredentials:
    """
    Looks credentials up. Connects when first asked.

    Args:
        url: ``postgresql://...``; may name several hosts, separated by commas. A standby serves as well.
        schema: Where the view is.
        limits: Time limits for connecting and for each statement, where they are below *patience_s*.
        patience_s: Longest time for a look-up, waiting for the connection included.
        cache_statements: Keep statements prepared. False behind PgBouncer in transaction mode.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str,
        limits: TimeLimits,
        patience_s: float = 5.0,
        cache_statements: bool = True,
    ) -> None:
        view = f"{quoted(schema)}.{CREDENTIAL_VIEW}"
        self._by_name = _SELECT.format(view=view, column="name")
        self._by_hash = _SELECT.format(view=view, column="secret_hash")
        self._patience_s = patience_s
        self._connection = Connection(
            url,
            limits=replace(
                limits,
                connect_timeout_s=min(limits.connect_timeout_s, patience_s),
                statement_timeout_s=min(limits.statement_timeout_s, patience_s),
            ),
            application_name="configcache gateway",
            settings=_SESSION,
            cache_statements=cache_statements,
        )

    def __repr__(self) -> str:
        return f"<PostgresCredentials {self._connection!r}>"

    async def by_name(self, kind: CredentialKind, name: str) -> list[StoredCredential]:
        """
        What is stored under *name*; of more than two rows, two.

        Raises:
            CredentialsUnavailable: No answer from the view.
        """
        return [StoredCredential(*row) for row in await self._fetch(self._by_name, kind, name)]

    async def by_hash(self, kind: CredentialKind, secret_hash: str) -> list[StoredCredential]:
        """The same for *secret_hash*."""
        return [StoredCredential(*row) for row in await self._fetch(self._by_hash, kind, secret_hash)]

    async def close(self) -> None:
        """Close the connection. Safe to repeat; the next look-up opens another."""
        await self._connection.close()

    async def _fetch(self, statement: str, kind: str, value: str) -> list[Record]:
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._connection.fetch(statement, kind, value)
        except TimeoutError as error:
            raise CredentialsUnavailable(f"no answer from the database in {self._patience_s:g} s") from error
        except TableFault as fault:
            mend = "; run `configcache migrate`" if fault.sqlstate == _UNDEFINED_TABLE else ""
            raise CredentialsUnavailable(f"{fault}{mend}") from fault
