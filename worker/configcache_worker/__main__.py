"""
The program ``configcache``: finds the verb, runs it, turns every outcome into an exit code and a readable line.

Standard library only until a verb is chosen, and only the chosen verb's module is imported: so ``--help`` is quick, and
an installation without a verb's extra can say so.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from configcache_worker.cli import CommandFailed

DISTRIBUTION: Final = "clear-configuration-cache"
DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2


class Verb(NamedTuple):
    """One line of ``configcache --help``, and the extra that brings what the verb imports."""

    summary: str
    extra: str = "worker"


VERBS: Final = {
    "worker": Verb("consume commands and clear the cached rows"),
    "publish": Verb("publish one command, confirmed by the broker"),
    "migrate": Verb("create or update the tables in the database"),
    "topology": Verb("create or check the exchanges and queues on the broker"),
    "doctor": Verb("say whether a worker could work, and what would mend it"),
    "contracts": Verb("check a message against the contract, offline"),
    "settings": Verb("print the settings in force and where each came from"),
    "demo": Verb("show it all on private servers, before and after", extra="testing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the program with the arguments *argv* (the process's own when None).

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage or settings. Never raises for what a verb does.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        return _run(name if name in VERBS else None, arguments)
    except SystemExit as exit_:  # argparse, which has said what it had to
        return exit_.code if isinstance(exit_.code, int) else WRONG_USAGE
    except CommandFailed as failure:
        _complain(name, str(failure))
        return failure.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing must be flushed into the broken pipe when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        _complain(name, "interrupted")
        return FAILED
    except Exception as error:  # a fault of this program; a user can't read a traceback
        _complain(name, f"unexpected {type(error).__name__}: {error} ({_place(error)})")
        return FAILED


def _run(name: str | None, arguments: Sequence[str]) -> int:
    parser, parsers = _parser()
    if name is None:
        parser.parse_args(arguments)
        parser.print_help()
        return WRONG_USAGE
    # Until a verb configures logs, libraries say nothing: what matters reaches the verb as an exception.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        verb: ModuleType = importlib.import_module(f"configcache_worker.cli.{name}")
        verb.add_arguments(parsers[name])
        code: int = verb.run(parser.parse_args(arguments))
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in {"configcache", "configcache_worker"}:
            raise
        extra = VERBS[name].extra
        message = f'configcache {name} needs the extra [{extra}]: pip install "{DISTRIBUTION}[{extra}]"'
        print(message, file=sys.stderr)
        return WRONG_USAGE
    sys.stdout.flush()
    return code


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="configcache",
        description="Keeps a cache of built configurations in step: commands in by RabbitMQ, rows out of PostgreSQL.",
        epilog="`configcache VERB --help` is the manual of a verb. Exit codes: 0 done, 1 failed, 2 wrong usage or settings.",
    )
    parser.add_argument("-V", "--version", action=_Version, help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="VERB", title="verbs")
    return parser, {
        name: subparsers.add_parser(name, help=verb.summary, allow_abbrev=False)
        for name, verb in VERBS.items()
    }


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version(DISTRIBUTION)
        except PackageNotFoundError:
            number = "(not installed: running from its source)"
        print(f"configcache {number}")
        parser.exit(DONE)


def _complain(name: str | None, text: str) -> None:
    prefix = f"configcache {name}" if name in VERBS else "configcache"
    for line in text.splitlines() or [""]:
        print(f"{prefix}: {line}", file=sys.stderr)


def _place(error: BaseException) -> str:
    """Where *error* was raised: enough for a bug report."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "place unknown"


if __name__ == "__main__":
    sys.exit(main())
