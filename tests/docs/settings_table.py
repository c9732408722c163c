"""
The document of all settings, made from the settings themselves.

    .venv/bin/python -m tests.docs.settings_table > docs/settings.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from configcache_worker.settings import SECTIONS, Setting, every_setting

_HEAD = """\
# Settings

From a TOML file (`--config FILE`, `CONFIGCACHE_CONFIG`, or `configcache.toml` if it is there), and over it environment
variables. Any variable may end in `_FILE` and name a file that holds the value. A verb validates only the sections it uses.
An unknown name is an error with a suggestion; `configcache settings` prints what is in force and where it came from.
"""


def document() -> str:
    """The whole document, as Markdown."""
    return "\n".join([_HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for section, model in SECTIONS.items():
        yield f"## {section}\n\n{(model.__doc__ or '').strip()}\n"
        yield "| setting, variable | takes | default | meaning |\n|---|---|---|---|"
        yield from (_row(setting) for setting in every_setting() if setting.path[0] == section)
        yield ""


def _row(setting: Setting) -> str:
    default = "required" if setting.is_required else f"`{setting.default}`"
    cells = f"`{setting.name}` `{setting.variable}`", setting.expected, default, setting.description
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(document())
