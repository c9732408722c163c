"""What failures of asyncpg mean to the core, and how they are worded."""

from __future__ import annotations

import asyncpg
import pytest

from configcache_worker.postgres.faults import describe, table_fault


def from_server(sqlstate, message, **fields):
    """An error as asyncpg makes it from a server's answer."""
    codes = {"S": "ERROR", "V": "ERROR", "C": sqlstate, "M": message, **fields}
    return asyncpg.PostgresError.new(codes)


@pytest.mark.parametrize("sqlstate", ["40P01", "42P01", "25006", "53300", "P0001", "ZZ999"])
def test_what_the_server_says_keeps_its_sqlstate(sqlstate):
    fault = table_fault(from_server(sqlstate, "no"), is_connection_lost=False)

    assert (fault.sqlstate, fault.timed_out, fault.unexpected) == (sqlstate, False, False)
    assert str(fault) == f"no (SQLSTATE {sqlstate})"


def test_a_cancelled_statement_ran_into_our_time_limit():
    assert table_fault(from_server("57014", "canceling statement"), is_connection_lost=False).timed_out


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        # How asyncpg reports that the server ended the connection while it was idle.
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
    ],
)
def test_a_lost_connection_has_no_sqlstate_and_is_nobodys_fault(error):
    fault = table_fault(error, is_connection_lost=True)

    assert (fault.sqlstate, fault.timed_out, fault.unexpected) == (None, False, False)


def test_misuse_of_the_driver_is_a_fault_of_this_program_unless_the_connection_is_gone():
    error = asyncpg.InterfaceError("connection is closed")

    assert not table_fault(error, is_connection_lost=True).unexpected
    assert table_fault(error, is_connection_lost=False).unexpected


@pytest.mark.parametrize(
    "error", [TypeError("unsupported"), asyncpg.DataError("invalid input for query argument $3")]
)
def test_anything_else_is_a_fault_of_this_program(error):
    fault = table_fault(error, is_connection_lost=False)

    assert fault.unexpected
    assert fault.sqlstate is None


def test_a_text_is_one_line_without_the_values_of_rows():
    error = from_server(
        "23503",
        "update or delete\n violates\tforeign key",
        D="Key (item)=(secret) is still referenced.",
        H="a hint",
    )

    assert describe(error) == "update or delete violates foreign key (SQLSTATE 23503)"


def test_a_text_is_not_longer_than_a_log_line_should_be():
    assert len(describe(from_server("P0001", "x" * 10_000))) < 400


def test_an_error_without_words_is_called_by_its_kind():
    assert describe(ConnectionAbortedError()) == "ConnectionAbortedError"
