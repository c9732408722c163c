"""``configcache doctor``: examine settings, broker and database, and say what would mend them."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from configcache_worker.cli import CommandFailed, add_config_option, manual, say

if TYPE_CHECKING:
    from configcache_worker.doctor import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Examine whether a worker could work as things are set up: settings, broker,
        exchanges and queues, rights, waiting commands and dead letters, database,
        table. Nothing is changed. Run it with the worker's own settings: it tells what
        that user and that role may do.

        One line for each check, and behind the arrow what mends it:
          ok       as it must be
          warning  works, but somebody should look: dead letters wait, nobody consumes
          wrong    a worker could not do its work
          skipped  not found out, and why
        Ends with 1 where anything is wrong, settings included. A warning does not fail,
        nor does what was skipped. Broker and database are examined independently,
        for at most half a minute.

        With --gateway it examines whether a gateway could: its user on the broker, the
        view in which callers are looked up, and the issuer's keys. Run that with the
        gateway's own settings.
        """,
        """
        settings: the sections broker, database, cache, worker, telemetry; with
          --gateway: broker, gateway, telemetry, and database and cache unless only
          Bearer is accepted

        example:
          CONFIGCACHE_BROKER__URL=amqp://worker:secret@localhost/ \\
          CONFIGCACHE_DATABASE__URL=postgresql://worker:secret@localhost/app \\
          configcache doctor
        """,
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON instead: well (a boolean) and findings, each with check, state, text and mend",
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--gateway", action="store_true", help="examine for a gateway, not for a worker")
    whose.add_argument(
        "--management",
        metavar="URL",
        type=_http_url,
        help="the broker's management API, such as http://localhost:15672, for bindings and policies; asked as the "
        "broker's user unless the URL names another",
    )
    add_config_option(parser)


def _http_url(text: str) -> str:
    # Not repeated in the message: it may contain a password.
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("must begin with http:// or https://")
    return text


def run(args: argparse.Namespace) -> int:
    """Examine, print, and judge."""
    from configcache_worker.doctor import State

    findings = asyncio.run(_examined(args))
    wrong = dict.fromkeys(finding.check for finding in findings if finding.state is State.WRONG)
    lines = _as_json(findings, well=not wrong) if args.json else _as_table(findings)
    say(lines)
    if wrong:
        raise CommandFailed(f"wrong: {', '.join(wrong)}")
    return 0


async def _examined(args: argparse.Namespace) -> list[Finding]:
    if args.gateway:
        from configcache_worker.doctor.gateway import examine_gateway

        return await examine_gateway(config=args.config)
    from configcache_worker.doctor import examine

    return await examine(config=args.config, management_url=args.management)


def _as_table(findings: Sequence[Finding]) -> str:
    width = max(len(finding.check) for finding in findings)
    return "\n".join(
        f"{finding.state:7}  {finding.check:{width}}  {finding.text}"
        + (f"  -> {finding.mend}" if finding.mend else "")
        for finding in findings
    )


def _as_json(findings: Sequence[Finding], *, well: bool) -> str:
    return json.dumps({"well": well, "findings": [asdict(finding) for finding in findings]}, indent=2)
