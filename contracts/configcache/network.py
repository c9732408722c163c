"""What the operating system says of a failure, in words for a human."""

from __future__ import annotations

import os
import re

__all__ = ["describe_os_error"]

_ERROR_NUMBER = re.compile(r"\[Errno (\d+)\]")


def describe_os_error(error: OSError) -> str:
    """
    Put an error of the network or the file system in a few words: "connection refused".

    asyncio puts addresses and numbers in the place of the system's words: ``Connect call failed ('127.0.0.1', 1)``, and
    ``Multiple exceptions: [Errno 111] ..., [Errno 101] ...`` where a name has several addresses.
    """
    text = error.strerror or str(error)
    numbers = [int(number) for number in _ERROR_NUMBER.findall(text)]
    if text.startswith("Connect call failed") and error.errno:
        numbers = [error.errno]
    if numbers:
        return ", ".join(dict.fromkeys(_words(os.strerror(number)) for number in numbers))
    words = _words(text) or type(error).__name__
    return f"{words}: {error.filename}" if isinstance(error.filename, str) else words


def _words(text: str) -> str:
    """*text* as a part of a sentence: "Connection refused" in lower case, "SSL: ..." as it is."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
