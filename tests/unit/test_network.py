"""What the system says of broken connections, as it reaches a user by way of either driver."""

from __future__ import annotations

import socket
import ssl

import pytest
from aiormq.exceptions import AMQPConnectionError

from configcache.connection import describe as describe_of_broker
from configcache_worker.postgres.faults import describe as describe_of_database


def as_the_amqp_driver_raises(error):
    wrapped = AMQPConnectionError(*error.args)
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0),"
                " [Errno 101] Connect call failed ('127.0.0.1', 1)"
            ),
            "connection refused, network is unreachable",
        ),
        (FileNotFoundError(2, "No such file or directory"), "no such file or directory"),
        (FileNotFoundError(2, "No such file or directory", "/ca.pem"), "no such file or directory: /ca.pem"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "[SSL: WRONG_VERSION_NUMBER] wrong"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
    ],
)
def test_what_the_system_says_is_told_in_its_words_without_numbers_and_addresses(error, words):
    assert describe_of_broker(as_the_amqp_driver_raises(error)) == words
    assert describe_of_database(error) == words
