"""``configcache dead-letters``: look at messages that could not be applied, mend and replay them, or put them away."""

from __future__ import annotations

import argparse

from configcache_worker.cli import CommandFailed, manual
from configcache_worker.cli.dead_letters import discarding, exporting, importing, listing, replaying, showing

_PARTS = {
    "list": listing,
    "show": showing,
    "replay": replaying,
    "discard": discarding,
    "export": exporting,
    "import": importing,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        The dead letters: messages that could never be applied, each with its reason.

        `list` counts them by reason and producer, `show` tells everything about one.
        `replay` publishes them as commands again, mended where that is asked for, and
        `discard` throws them away. `export` writes them to a file, and `import` brings
        them back from one. Each part has a manual of its own.

        Looking takes nothing away: the letters are held while they are looked at, and
        are all back in the queue when the part ends, however it ends. Meanwhile nobody
        else sees them, and they are missing from the queue's depth. Their order is kept
        as far as possible, which is not a promise.
        """,
        """
        settings: the section broker

        rights: to look and to discard, read on the dead-letter queue; to replay,
          write on the exchange configuration too; to import, write on
          configuration.dead-letter

        example:
          configcache dead-letters list
          configcache dead-letters show --reason missing-associate
          configcache dead-letters replay --reason missing-associate \\
            --set ForAllAssociates=true --dry-run
        """,
    )
    subparsers = parser.add_subparsers(metavar="PART", dest="part", required=True)
    for name, part in _PARTS.items():
        part.add_arguments(subparsers.add_parser(name, help=part.SUMMARY, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    """Do the part that was asked for."""
    from configcache.errors import PublishError

    try:
        code: int = _PARTS[args.part].run(args)
    except PublishError as error:
        raise CommandFailed(str(error)) from error
    return code
