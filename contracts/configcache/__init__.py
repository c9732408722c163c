"""
Clear a cached configuration by message: what a producing service installs.

Publish a command; it is done when the broker has it on disk, in a queue::

    from configcache import ClearConfigurationCache, Publisher

    async with Publisher(url="amqp://user:password@broker/vhost", app_id="config-editor") as publisher:
        await publisher.publish(ClearConfigurationCache.for_all("WebClient", "Web"))
        await publisher.publish(ClearConfigurationCache.for_associate("WebClient", "Web", 42))

The other side of the cache is ``cache`` (read through it, or build) and ``events`` (news of what was cleared).

The rest: ``blocking`` (the same without an event loop), ``outbox`` (a command in your own transaction), ``recording``
(for tests), ``wire`` (bytes and properties to a command and back), ``topology`` (the broker's set-up as data),
``documents`` (the contract for machines), ``connection`` (one session at a time, for whoever talks to the broker).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configcache.command import ClearConfigurationCache
    from configcache.errors import (
        BrokerUnavailable,
        ContractError,
        NotAllPublished,
        PublishError,
        Reason,
        Refused,
        Unroutable,
    )
    from configcache.publisher import Publisher
    from configcache.retry import Retries, RetryPolicy
    from configcache.wire import Properties, decode, encode

__all__ = [
    "BrokerUnavailable",
    "ClearConfigurationCache",
    "ContractError",
    "NotAllPublished",
    "Properties",
    "PublishError",
    "Publisher",
    "Reason",
    "Refused",
    "Retries",
    "RetryPolicy",
    "Unroutable",
    "decode",
    "encode",
]

# Looked up when first used: pytest imports this package for its plugin in every run, and should wait for nothing else.
_HOMES = {
    "ClearConfigurationCache": "command",
    "Publisher": "publisher",
    "Retries": "retry",
    "RetryPolicy": "retry",
    "Properties": "wire",
    "decode": "wire",
    "encode": "wire",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
