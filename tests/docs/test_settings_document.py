"""What the documents say of settings is what the program does."""

from __future__ import annotations

import re

from configcache_worker.settings import every_setting
from tests.docs.documents import PROJECT, table_rows
from tests.docs.settings_table import document


def test_the_document_of_all_settings_is_current():
    current = (PROJECT / "docs" / "settings.md").read_text(encoding="utf-8")

    assert current == document(), "run: .venv/bin/python -m tests.docs.settings_table > docs/settings.md"


def test_the_readmes_settings_exist_with_these_defaults():
    settings = {setting.name: setting for setting in every_setting()}

    for row in table_rows(PROJECT / "README.md", "Settings"):
        names = re.findall(r"`([^`]+)`", row[0])
        section = names[0].rpartition(".")[0]
        full = [section + name if name.startswith(".") else name for name in names]
        defaults = row[1].replace("`", "").split(", ")
        for name, default in zip(full, defaults, strict=True):
            expected = "required" if settings[name].is_required else settings[name].default
            assert default == expected, name
