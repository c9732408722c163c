"""What can go wrong with a private server, for its caller to tell apart."""

from __future__ import annotations


class ServerUnavailable(RuntimeError):
    """There is no such server here and none can be started; the text names the ways to get one."""


class ServerFailed(RuntimeError):
    """A server or one of its programs did not do what was asked; the text ends with what it said."""
