"""``configcache contracts``: the contract, offline."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from configcache_worker.cli import CommandFailed, WrongUsage, manual, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        The contract of the command, for producers in any language. Needs no broker, no
        settings and no extra.

        `check` says whether a message is accepted, and if not, for which reason: the
        one that would stand on its dead letter. `reasons` lists all there are.
        `json-schema` and `asyncapi` print the contract for machines, as JSON.
        """,
        """
        example:
          configcache contracts check < body.json
          configcache contracts json-schema > clear-configuration-cache.v1.schema.json
        """,
    )
    parts = parser.add_subparsers(metavar="PART", dest="part", required=True)
    _add_check(parts.add_parser("check", help="say whether a message is accepted", allow_abbrev=False))
    reasons = parts.add_parser("reasons", help="list the reasons and what each means", allow_abbrev=False)
    manual(reasons, "List the words that can stand on a dead letter, in the order of the checks.", "")
    schema = parts.add_parser("json-schema", help="print the JSON Schema of the body", allow_abbrev=False)
    manual(
        schema,
        """
        Print the JSON Schema (2020-12) of the body. A schema can't say all of the
        contract: to it 42.0 is an integer, and a property that appears twice appears
        once. `configcache contracts check` is the judge.
        """,
        "",
    )
    asyncapi = parts.add_parser("asyncapi", help="print the AsyncAPI document", allow_abbrev=False)
    manual(asyncapi, "Print the AsyncAPI 3 document of exchanges, messages, headers and body, as JSON.", "")


def _add_check(parser: argparse.ArgumentParser) -> None:
    manual(
        parser,
        """
        Check one message against the contract.

        Prints what it would clear; or the reason, and what would be right. Ends with 0
        where it is accepted and with 1 where it is not, so that a producer's build can
        test what it publishes. The same code decides in the worker.
        """,
        """
        example:
          configcache contracts check < body.json
          configcache contracts check --file body.json --type ClearConfigurationCache
        """,
    )
    parser.add_argument("--file", metavar="FILE", help="the body (default: standard input)")
    for name in ("type", "content-type", "content-encoding"):
        parser.add_argument(
            f"--{name}",
            metavar="TEXT",
            help=f"the AMQP property {name.replace('-', '_')} (default: the message has none)",
        )


def run(args: argparse.Namespace) -> int:
    """Check a message, or print a part of the contract."""
    match args.part:
        case "check":
            return _check(args)
        case "reasons":
            return _list_reasons()
    return _print_document(args.part)


def _check(args: argparse.Namespace) -> int:
    from configcache import ContractError, Properties, decode

    properties = Properties(
        content_type=args.content_type, content_encoding=args.content_encoding, type=args.type
    )
    try:
        command = decode(_body(args.file), properties)
    except ContractError as error:
        meaning = [] if error.reason.meaning == error.detail else [error.reason.meaning]
        raise CommandFailed("\n".join([f"{error.reason}: {error.detail}", *meaning])) from error
    whose = "all associates" if command.for_all_associates else f"associate {command.associate_id}"
    say(f"accepted: clear {command.application} / {command.instance} for {whose}")
    return 0


def _body(file: str | None) -> bytes:
    if file is None and sys.stdin is None:  # the process was started with a closed one
        raise WrongUsage("standard input can't be read: it is closed")
    try:
        return sys.stdin.buffer.read() if file is None else Path(file).read_bytes()
    except OSError as error:
        raise WrongUsage(f"{file or 'standard input'} can't be read: {error.strerror}") from error


def _list_reasons() -> int:
    from configcache import Reason

    for reason in Reason:
        say(reason)
        say(textwrap.fill(reason.meaning, 80, initial_indent="    ", subsequent_indent="    "))
    return 0


def _print_document(name: str) -> int:
    import json

    from configcache import documents

    document = documents.json_schema() if name == "json-schema" else documents.asyncapi()
    say(json.dumps(document, indent=2, ensure_ascii=True))
    return 0
