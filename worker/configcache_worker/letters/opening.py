"""Open what the others work on, by the settings of the section broker."""

from __future__ import annotations

from typing import Final

from configcache_worker.rabbitmq.letter_box import LetterBox
from configcache_worker.rabbitmq.post import Post
from configcache_worker.settings import BrokerSettings

_NAME: Final = "configcache dead-letters"


def open_box(broker: BrokerSettings, *, most: int) -> LetterBox:
    """The dead letters of *broker*, *most* at a time."""
    return LetterBox(
        broker.url,
        name=_NAME,
        most=most,
        timeout_s=broker.connect_timeout_s,
        heartbeat_s=broker.heartbeat_s,
    )


def open_post(broker: BrokerSettings) -> Post:
    """What publishes to *broker*."""
    return Post(broker.url, name=_NAME, timeout_s=broker.connect_timeout_s, heartbeat_s=broker.heartbeat_s)
