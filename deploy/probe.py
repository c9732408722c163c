"""
Ask the worker in this container for /livez or /readyz. Exit code 0 if it says yes; else 1, and its answer is printed.

For the health checks of Docker and Compose; Kubernetes asks by HTTP itself. A bare socket, because this runs every few
seconds, and to import an HTTP client would be most of its work.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

PORT_VARIABLE: Final = "CONFIGCACHE_TELEMETRY__PORT"
DEFAULT_PORT: Final = "9464"
TIMEOUT_S: Final = 5.5  # the worker takes up to 5 s to find out whether it is ready


def main(path: str) -> str | None:
    """What is wrong, if anything is."""
    port = int(os.environ.get(PORT_VARIABLE, DEFAULT_PORT))
    try:
        head, _, body = _ask(port, path).partition(b"\r\n\r\n")
    except OSError as error:
        return f"no answer on port {port}: {error}"
    return None if head.startswith(b"HTTP/1.1 200 ") else body.decode(errors="replace")


def _ask(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        answer = b""
        while received := connection.recv(4096):  # the worker closes the connection behind its answer
            answer += received
    return answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
