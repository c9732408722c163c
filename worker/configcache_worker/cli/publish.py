"""``configcache publish``: publish one command."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from configcache_worker.cli import (
    CommandFailed,
    OutputFailed,
    WrongUsage,
    add_config_option,
    load_settings,
    manual,
    say,
    seconds,
)

if TYPE_CHECKING:
    from configcache import ClearConfigurationCache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Publish one ClearConfigurationCache command.

        Done means that the broker has confirmed it and put it into the queue, not that
        rows are gone: that is the worker's part. To publish the same command again is
        harmless.
        """,
        """
        settings: the section broker

        example:
          configcache publish --application WebClient --instance Web --for-all-associates
          configcache publish --application WebClient --instance Web --associate 42
        """,
    )
    parser.add_argument("--application", required=True, help="which client program, such as WebClient")
    parser.add_argument("--instance", required=True, help="which configuration set of it, such as Web")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--for-all-associates", action="store_true", help="clear everybody's rows")
    whose.add_argument("--associate", metavar="ID", type=_associate, help="clear the rows of one associate")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=5.0,
        help="longest time to wait for the broker, connecting included (default: 5)",
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Publish the command."""
    command = _command(args)
    settings = load_settings(args, "broker")

    from configcache import PublishError

    try:
        asyncio.run(_publish(command, url=settings.broker.url, timeout_s=args.timeout))
    except PublishError as error:
        raise CommandFailed(f"not published: {error}") from error
    whose = "all associates" if command.for_all_associates else f"associate {command.associate_id}"
    try:
        say(f"published: clear {command.application} / {command.instance} for {whose}")
    except OutputFailed as failure:
        raise OutputFailed(f"published, but {failure}") from failure
    return 0


def _associate(text: str) -> int:
    try:
        return int(text)  # its range is the contract's to check
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 1 to 9223372036854775807, not {text}"
        ) from None


def _command(args: argparse.Namespace) -> ClearConfigurationCache:
    from pydantic import ValidationError

    from configcache import ClearConfigurationCache

    try:
        return ClearConfigurationCache(
            application=args.application,
            instance=args.instance,
            for_all_associates=args.for_all_associates,
            associate_id=args.associate,
        )
    except ValidationError as error:
        raise WrongUsage("\n".join(violation["msg"] for violation in error.errors())) from error


async def _publish(command: ClearConfigurationCache, *, url: str, timeout_s: float) -> None:
    from configcache import Publisher

    async with Publisher(url=url, timeout_s=timeout_s, app_id="configcache publish") as publisher:
        await publisher.publish(command)
