"""
The message in which Dramatiq carries a command, and the queue it takes it from.

Dramatiq declares a classic queue by itself. Here it is a quorum queue, so that its messages are as safe as everybody
else's.
"""

from __future__ import annotations

import time
import uuid
from typing import Final

QUEUE: Final = "clear"
ACTOR: Final = "clear"
DEAD_LETTERS: Final = "clear.XQ"
QUEUE_ARGUMENTS: Final = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD_LETTERS,
}


def wrap(body: bytes) -> bytes:
    """*body*, a JSON object, as the keyword arguments of the actor's call."""
    return (
        b'{"queue_name":"%b","actor_name":"%b","args":[],"kwargs":%b,"options":{},'
        b'"message_id":"%b","message_timestamp":%d}'
        % (QUEUE.encode(), ACTOR.encode(), body, str(uuid.uuid4()).encode(), time.time_ns() // 1_000_000)
    )
