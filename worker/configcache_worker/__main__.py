"""
The program ``configcache``: finds the verb, runs it, turns every outcome into an exit code and a readable line.

Standard library only until a verb is chosen, and only the chosen verb's module is imported: so ``--help`` is quick, and
an installation without a verb's extra can say so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple, NoReturn, TextIO

from configcache_worker.cli import CommandFailed, OutputFailed, say
from configcache_worker.observe.build import DISTRIBUTION, version

DONE: Final = 0
FAILED: Final = 1
WRONG_USAGE: Final = 2


class Verb(NamedTuple):
    """One line of ``configcache --help``, and the extra that brings what the verb imports."""

    summary: str
    extra: str = "worker"


VERBS: Final = {
    "worker": Verb("consume commands and clear the cached rows"),
    "relay": Verb("publish what transactions have put into the outbox"),
    "gateway": Verb("serve the classic HTTP call, and publish what it asks for", extra="gateway"),
    "publish": Verb("publish one command, confirmed by the broker"),
    "migrate": Verb("create or update the tables in the database"),
    "topology": Verb("create or check the exchanges and queues on the broker"),
    "dead-letters": Verb("look at what could not be applied, mend and replay it"),
    "doctor": Verb("say whether a worker could work, and what would mend it"),
    "status": Verb("show what waits, who consumes, what could not be cleared and why"),
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
    except OutputFailed as failure:
        _give_up(sys.stdout)
        _complain(name, str(failure))
        return failure.exit_code
    except CommandFailed as failure:
        _complain(name, str(failure))
        return failure.exit_code
    except BrokenPipeError:  # whoever read our output has gone
        _give_up(sys.stdout)
        return FAILED
    except KeyboardInterrupt:
        _complain(name, "interrupted")
        return FAILED
    except Exception as error:  # a fault of this program; a user can't read a traceback
        _complain(name, f"unexpected {type(error).__name__}: {error} ({_place(error)})")
        return FAILED


def _run(name: str | None, arguments: Sequence[str]) -> int:
    parser, parsers = _parser()
    try:
        if name is not None:
            return _run_verb(name, arguments, parser, parsers[name])
        parser.parse_args(arguments)
    except SystemExit as exit_:  # argparse, which has said what it had to
        return exit_.code if isinstance(exit_.code, int) else WRONG_USAGE
    parser.print_help()
    return WRONG_USAGE


def _run_verb(
    name: str,
    arguments: Sequence[str],
    parser: argparse.ArgumentParser,
    verbs_parser: argparse.ArgumentParser,
) -> int:
    # Until a verb configures logs, libraries say nothing: what matters reaches the verb as an exception.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        verb: ModuleType = importlib.import_module(f"configcache_worker.cli.{name.replace('-', '_')}")
        verb.add_arguments(verbs_parser)
        code: int = verb.run(parser.parse_args(arguments))
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in {"configcache", "configcache_worker"}:
            raise
        extra = VERBS[name].extra
        _tell(f'configcache {name} needs the extra [{extra}]: pip install "{DISTRIBUTION}[{extra}]"')
        return WRONG_USAGE
    return code


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="configcache",
        description="Keeps a cache of built configurations in step: commands in by RabbitMQ, rows out of PostgreSQL.",
        formatter_class=_HelpFormatter,
        epilog="`configcache VERB --help` is the manual of a verb. Exit codes: 0 done, 1 failed, 2 wrong usage or settings.",
    )
    parser.add_argument("-V", "--version", action=_Version, help="print the version and exit")
    subparsers = parser.add_subparsers(metavar="VERB", title="verbs")
    return parser, {
        name: subparsers.add_parser(name, help=verb.summary, allow_abbrev=False)
        for name, verb in VERBS.items()
    }


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps each verb on one line: argparse forgets that verbs are indented once more than options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = max(map(len, VERBS)) + 2 * self._indent_increment


class _Parser(argparse.ArgumentParser):
    """Writes as the verbs do: argparse would keep it to itself that something can't be written."""

    def print_help(self, file: object = None) -> None:
        say(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        _tell(f"{self.format_usage()}{self.prog}: error: {message}")
        raise SystemExit(WRONG_USAGE)


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
        say(f"configcache {version() or '(not installed: running from its source)'}")
        parser.exit(DONE)


def _complain(name: str | None, text: str) -> None:
    prefix = f"configcache {name}" if name in VERBS else "configcache"
    for line in text.splitlines() or [""]:
        _tell(f"{prefix}: {line}")


def _tell(line: str) -> None:
    if sys.stderr is None:  # closed, and print() would take standard output in its place
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # nobody is left to tell; the exit code remains
        _give_up(sys.stderr)


def _give_up(stream: TextIO | None) -> None:
    """Let *stream* end nowhere: nothing must be flushed into what can't be written when the interpreter ends."""
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):  # no file of its own, or it is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _place(error: BaseException) -> str:
    """Where *error* was raised: enough for a bug report."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "place unknown"


if __name__ == "__main__":
    sys.exit(main())
