"""
Log lines: one constant event name plus fields, as JSON for machines or coloured for a terminal.

Lines go to standard error: standard output belongs to what a verb prints. Our code logs through structlog; what
libraries log through :mod:`logging` comes out in the same form as the event ``library.logged``. Passwords in URLs are
masked whoever wrote the line. Nothing happens until :func:`configure` is called.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TextIO

import structlog

from configcache.connection import DRIVER_LOGGERS
from configcache_worker.settings import LogFormat, LogLevel, masked

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

_FIRST: Final = ("timestamp", "level", "event")
_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def configure(
    log_format: LogFormat,
    log_level: LogLevel,
    stream: TextIO | None = None,
    *,
    fields: Processor | None = None,
) -> None:
    """
    Send all log lines of this process to *stream* from now on. Safe to repeat; the last call counts.

    Args:
        log_format: ``auto`` means ``console`` where *stream* is a terminal and ``json`` elsewhere.
        log_level: Lines below it are dropped.
        stream: Standard error when None.
        fields: Adds fields to each line.
    """
    stream = stream or sys.stderr
    on_terminal = stream.isatty()
    as_console = log_format == "console" or (log_format == "auto" and on_terminal)
    level = logging.getLevelNamesMapping()[log_level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([fields] if fields else []),
            _with_error,
            *(_console(colors=on_terminal) if as_console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    _take_over_logging(level)


def _json() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        _without_secrets,
        _in_order,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


def _console(*, colors: bool) -> list[Processor]:
    return [_without_traceback, _without_secrets, structlog.dev.ConsoleRenderer(colors=colors)]


def _without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask the passwords of URLs in every text, those deeper down included."""
    return {key: _masked(value) for key, value in event.items()}


def _masked(value: object) -> object:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(inner) for inner in value]
    return value if isinstance(value, (bool, int, float, type(None))) else masked(str(value))


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Time, level and event name first: JSON lines are read by people too."""
    return {**{key: event[key] for key in _FIRST}, **event}


def _with_error(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Say in a field of its own, in one line, which exception a line is about."""
    exception = event.get("exc_info")
    if exception is True:
        exception = sys.exc_info()[1]
    if isinstance(exception, tuple):
        exception = exception[1]
    if isinstance(exception, BaseException):
        event.setdefault("error", f"{type(exception).__name__}: {exception}")
    return event


def _without_traceback(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """On a terminal the reason is wanted; the traceback is in the JSON lines."""
    event.pop("exc_info", None)
    return event


class _Forward(logging.Handler):
    """Passes the log records of libraries on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        # A library may use levels of its own, which structlog refuses: the next lower one counts.
        level = max(known for known in _LEVELS if known <= max(record.levelno, logging.DEBUG))
        fields = {"exc_info": record.exc_info} if record.exc_info else {}
        structlog.get_logger().log(
            level, "library.logged", logger=record.name, message=record.getMessage(), **fields
        )


def _take_over_logging(level: int) -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward())
    root.setLevel(level)
    logging.captureWarnings(True)
    # They log a traceback for every lost connection, which our own events tell with its consequence.
    for name in DRIVER_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
