"""
The verbs of the program, one module each: parse, call, print; no logic.

A verb's module has ``add_arguments(parser)`` and ``run(args) -> int`` (the exit code). It imports what it needs inside
``run``, so that ``--help`` works where the verb's extra is not installed. Here stands what several verbs share.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from configcache_worker.observe.build import DISTRIBUTION

if TYPE_CHECKING:
    from configcache_worker.observe.traces import Traces
    from configcache_worker.settings import Settings

_OBJECTS_PER_COLLECTION: Final = 50_000

EXIT_CODES = """
exit codes:
  0  done
  1  failed; the reason is on standard error
  2  wrong usage or settings
"""


class CommandFailed(Exception):
    """The verb could not do it: exit code 1. The text is what the user reads."""

    exit_code = 1


class WrongUsage(CommandFailed):
    """Arguments or settings are wrong: exit code 2."""

    exit_code = 2


class OutputFailed(CommandFailed):
    """What the verb has to say can't be written, so nobody learns how it went: exit code 1."""


def say(text: str) -> None:
    """
    Print *text* as a line of the verb's output, at once: a verb that goes on should know that somebody can read it.

    Raises:
        OutputFailed: It can't be written.
        BrokenPipeError: Whoever read the output has gone.
    """
    if sys.stdout is None:  # the process was started with a closed one
        raise OutputFailed("can't write the output: it is closed")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputFailed(f"can't write the output: {error.strerror}") from error


def manual(parser: argparse.ArgumentParser, description: str, epilog: str) -> None:
    """Make ``--help`` a small manual: *description* above the options, *epilog* and the exit codes below."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = textwrap.dedent(description).strip()
    parser.epilog = textwrap.dedent(epilog).strip() + "\n" + EXIT_CODES


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """The option every verb with settings has."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file with settings (else $CONFIGCACHE_CONFIG, else configcache.toml if it is there); "
        "environment variables win over it",
    )


def seconds(text: str) -> float:
    """The value of an option that is a duration."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds greater than 0, not {text}")
    return value


def load_settings(args: argparse.Namespace, *sections: str) -> Settings:
    """
    The settings, with *sections* validated.

    Raises:
        WrongUsage: They are not valid; one line for each problem.
    """
    from configcache_worker.settings import SettingsError, load

    try:
        return load(sections, config=args.config)
    except SettingsError as error:
        raise WrongUsage(str(error)) from error


@contextlib.contextmanager
def observed(settings: Settings, *, service: str) -> Iterator[Traces | None]:
    """
    Let a verb that goes on write its log and send its spans as the section ``telemetry`` of *settings* asks.

    Args:
        settings: With that section.
        service: What to call the process in traces, where OpenTelemetry's own variables do not.

    Raises:
        WrongUsage: Traces are wanted, and the extra is missing or a variable of OpenTelemetry is wrong.
    """
    from configcache_worker.observe import logs

    telemetry = settings.telemetry
    traces = _start_traces(service) if telemetry.traces else None
    try:
        logs.configure(
            telemetry.log_format, telemetry.log_level, fields=traces.log_fields if traces else None
        )
        yield traces
    finally:
        if traces is not None:
            traces.stop()


def _start_traces(service: str) -> Traces:
    try:
        from configcache_worker.observe.traces import Traces

        return Traces(service=service)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "opentelemetry":
            raise
        needed = f'pip install "{DISTRIBUTION}[telemetry]"'
        raise WrongUsage(f"telemetry.traces needs the extra [telemetry]: {needed}") from missing
    except ValueError as error:
        raise WrongUsage(
            f"telemetry.traces: a variable OTEL_… of the environment is wrong: {error}"
        ) from error


class Stoppable(Protocol):
    """What runs until it is told to stop."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...


async def until_stopped(service: Stoppable) -> None:
    """Run *service*; SIGTERM and SIGINT let it finish, a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        service.stop()
        # Nothing to tidy up at a second signal: a crash at any point loses no command.
        for number in signals:
            loop.add_signal_handler(number, os._exit, 1)

    for number in signals:
        loop.add_signal_handler(number, stop)
    await service.run()


def collect_rarely() -> None:
    """
    Let the garbage collector look for cycles only when a great many objects have come, and at none that were there before.

    With its defaults it takes a quarter of a worker's time, and a tenth of a gateway's: each delivery, and each request, is
    a few new objects, hardly any of them in a cycle, and every so many it looks at all that there are. With the default
    prefetch fewer than this live at a time.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION, *gc.get_threshold()[1:])
