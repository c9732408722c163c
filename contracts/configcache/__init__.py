"""
Clear a cached configuration by message: what a producing service installs.

Publish a command; it is done when the broker has it on disk, in a queue::

    from configcache import ClearConfigurationCache, Publisher

    async with Publisher(url="amqp://user:password@broker/vhost", app_id="config-editor") as publisher:
        await publisher.publish(ClearConfigurationCache.for_all("WebClient", "Web"))
        await publisher.publish(ClearConfigurationCache.for_associate("WebClient", "Web", 42))

The rest: ``wire`` (bytes and properties to a command and back), ``topology`` (the broker's set-up as data),
``connection`` (one session at a time, for whoever talks to the broker).
"""

from configcache.command import ClearConfigurationCache
from configcache.errors import BrokerUnavailable, ContractError, PublishError, Reason, Refused, Unroutable
from configcache.publisher import Publisher
from configcache.wire import Properties, decode, encode

__all__ = [
    "BrokerUnavailable",
    "ClearConfigurationCache",
    "ContractError",
    "Properties",
    "PublishError",
    "Publisher",
    "Reason",
    "Refused",
    "Unroutable",
    "decode",
    "encode",
]
