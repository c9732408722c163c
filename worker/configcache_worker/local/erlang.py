"""
What is asked of a RabbitMQ node in its own language: the calls behind ``rabbitmqctl``, without the second it needs to start.

Each function gives an expression whose value is ``ok``; to evaluate it is left to the caller.
"""

from __future__ import annotations

from typing import Final

_ACTING_USER: Final = '<<"test">>'


def add_vhost(name: str, *, owner: str) -> str:
    """Create the virtual host *name*, all of it open to the user *owner*."""
    return (
        f"ok = rabbit_vhost:add({_binary(name)}, {_ACTING_USER}), "
        f"{set_permissions(owner, name, configure='.*', write='.*', read='.*')}"
    )


def delete_vhost(name: str) -> str:
    """Delete the virtual host *name*, if there is one."""
    return (
        f"case catch rabbit_vhost:delete({_binary(name)}, {_ACTING_USER}) of "
        "{error, {no_such_vhost, _}} -> ok; Answer -> Answer end"
    )


def add_user(name: str, password: str) -> str:
    """Create the user *name*, without any rights."""
    return f"rabbit_auth_backend_internal:add_user({_binary(name)}, {_binary(password)}, {_ACTING_USER})"


def set_permissions(user: str, vhost: str, *, configure: str, write: str, read: str) -> str:
    """Give *user* these rights in *vhost* and no others: regular expressions for the names of exchanges and queues."""
    arguments = ", ".join(map(_binary, (user, vhost, configure, write, read)))
    return f"rabbit_auth_backend_internal:set_permissions({arguments}, {_ACTING_USER})"


def delete_user(name: str) -> str:
    """Delete the user *name*, who exists."""
    return f"rabbit_auth_backend_internal:delete_user({_binary(name)}, {_ACTING_USER})"


def _binary(text: str) -> str:
    """*text* as an Erlang binary, whatever characters are in it."""
    return "<<" + ",".join(str(byte) for byte in text.encode()) + ">>"
