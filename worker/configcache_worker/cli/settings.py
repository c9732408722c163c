"""``configcache settings``: what is in force, and where it came from."""

from __future__ import annotations

import argparse

from configcache_worker.cli import WrongUsage, add_config_option, manual, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verb to *parser*."""
    manual(
        parser,
        """
        Print every setting with the value in force and where it came from. Passwords
        are masked.

        Ends with 2 where a setting is missing or wrong, after saying which; where a
        name or a file is wrong, without the table. Other verbs ask only for the
        sections they use.
        """,
        """
        settings: all sections

        example:
          configcache settings --config /etc/configcache.toml
        """,
    )
    add_config_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table, then what is wrong."""
    from configcache_worker.settings import SECTIONS, SettingsError, read

    sources = read(config=args.config)
    if sources.problems:  # what was meant is not in force: a table would only mislead
        raise WrongUsage("\n".join(sources.problems))
    rows = [(row.setting.name, row.value, row.origin) for row in sources.effective()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        say(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    try:
        sources.settings(SECTIONS)
    except SettingsError as error:
        raise WrongUsage(str(error)) from error
    return 0
