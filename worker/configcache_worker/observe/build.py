"""Which build of the program this is."""

from __future__ import annotations

import functools
from typing import Final

DISTRIBUTION: Final = "clear-configuration-cache"


@functools.cache
def version() -> str | None:
    """The version that is installed; None where the program runs from its source."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version(DISTRIBUTION)
    except PackageNotFoundError:
        return None
