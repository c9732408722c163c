"""
What is wrong with the URL of a server, in words that follow its name: "broker.url must ...".

The drivers take what they understand of a URL and ignore the rest, or fail at their first use of it, with words that may
quote a piece of the password. Here nothing is quoted but names that are known, and names of query parameters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

_LAST_PORT: Final = 65_535
_ENCODING: Final = (
    "special characters in user and password need percent-encoding (@ is %40, / is %2F, : is %3A)"
)

# RFC 3986, appendix B. Not urlsplit(): whether that takes several hosts, one of them in brackets, depends on the release
# of Python.
_URL: Final = re.compile(
    r"[^:/?#]+://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?"
)
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(?::(?P<port>[^\[\]]*))?")

_BROKER_PARAMETERS: Final = frozenset(
    {
        "auth",
        "cadata",
        "cafile",
        "capath",
        "certfile",
        "happy_eyeballs_delay",
        "interleave",
        "keyfile",
        "name",
        "no_verify_ssl",
        "timeout",
    }
)
"""What the AMQP driver reads, but for ``heartbeat``."""

# Of all others the server says itself that they are wrong: the driver passes on what it does not know.
_DATABASE_CHOICES: Final[Mapping[str, Collection[str]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}


def check_broker_url(url: str) -> None:
    """
    Say what is wrong with the URL of a broker: it may name several hosts.

    Raises:
        ValueError: It can't be used, or a part of it would be ignored. The text has no secret in it.
    """
    parts = _split(url, "amqp", "amqps")
    _check_user(parts, rest=url)
    names = [_check_host(host) for host in _hosts(parts).split(",")]
    if not all(names):
        raise ValueError("must name a host, or several separated by commas: amqp://user@host:5672/vhost")
    for name in _query(parts):
        _check_broker_parameter(name)


def check_database_url(url: str) -> None:
    """
    Say what is wrong with the URL of a database: it may name several hosts, or none for a local socket.

    Raises:
        ValueError: It can't be used. The text has no secret in it.
    """
    parts = _split(url, "postgresql", "postgres")
    _check_user(parts, rest=parts.path + parts.fragment)
    if parts.netloc.count("@") > 1:  # the driver takes the first for the end of the password
        raise ValueError(f"must have a single @: {_ENCODING}")
    for host in _hosts(parts).split(","):
        _check_host(host)
    query = _query(parts)
    for port in filter(None, query.get("port", "").split(",")):
        _check_port(port)
    for name, choices in _DATABASE_CHOICES.items():
        if name in query and query[name] not in choices:
            raise ValueError(
                f"must have one of {', '.join(choices)} as its {name}{_meant(query[name], choices)}"
            )


class _Parts(NamedTuple):
    netloc: str
    path: str
    query: str
    fragment: str


def _split(url: str, *schemes: str) -> _Parts:
    if url.partition("://")[0].lower() not in schemes or "://" not in url:
        raise ValueError(
            "must be a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes)
        )
    if re.search(r"\s", url):
        raise ValueError("must not contain white space (in a password it is written %20)")
    found = _URL.fullmatch(url)
    assert found is not None, "whatever follows the scheme matches"
    return _Parts(**found.groupdict(default=""))


def _check_user(parts: _Parts, *, rest: str) -> None:
    """Refuse what an unescaped slash, question mark or hash in the password has cut short: the @ is in the *rest*."""
    if "@" not in parts.netloc and ":" in parts.netloc and "@" in rest:
        raise ValueError(f"must have its user and password before the host; {_ENCODING}")
    if re.search(r"[\[\]]", parts.netloc.rpartition("@")[0]):
        raise ValueError(f"must not have brackets in user or password; {_ENCODING}")


def _hosts(parts: _Parts) -> str:
    return parts.netloc.rpartition("@")[2]


def _check_host(host: str) -> str:
    """*host* is ``host``, ``host:port`` or ``[ipv6]:port``. Its name, empty if there is none."""
    found = _HOST.fullmatch(host)
    if found is None:
        raise ValueError(f"must have brackets around an IPv6 address and nowhere else; {_ENCODING}")
    if found["port"]:
        _check_port(found["port"])
    return found["name"]


def _check_port(port: str) -> None:
    if not (port.isascii() and port.isdecimal() and 0 < int(port) <= _LAST_PORT):
        raise ValueError(f"must have a port that is a number from 1 to {_LAST_PORT}")


def _check_broker_parameter(name: str) -> None:
    if name in _BROKER_PARAMETERS:
        return
    if difflib.get_close_matches(name, [*_BROKER_PARAMETERS, "heartbeat"], n=1) == ["heartbeat"]:
        raise ValueError(f"must not set {name}: set broker.heartbeat_s in its place")
    raise ValueError(
        f"must not set {name}, which is no parameter of a broker's URL{_meant(name, _BROKER_PARAMETERS)}"
    )


def _query(parts: _Parts) -> dict[str, str]:
    try:
        return dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ValueError("must have parameters behind the ? as name=value, separated by &") from None


def _meant(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
