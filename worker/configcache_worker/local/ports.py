"""Free loopback ports that stay usable while their server is down."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"

# Below the range the kernel takes outgoing ports from (32768 and up on Linux). A client that keeps trying to reach a
# stopped server would otherwise be given that very port one day, connect to itself, and keep the server from it.
_CHOICE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Choose *count* different ports that nobody listens on, at random so that neighbours choose others."""
    chosen: list[int] = []
    while len(chosen) < count:
        port = random.choice(_CHOICE)
        if port not in chosen and is_free(port):
            chosen.append(port)
    return chosen


def is_free(port: int) -> bool:
    """Whether a server could listen on *port* of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        # As the servers do: connections of a server that has just ended don't count.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
