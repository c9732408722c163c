"""A service of yours, in short: it changes the configuration, and says so."""

from configcache import ClearConfigurationCache, Publisher


async def save_layout(publisher: Publisher, instance: str, layout: str) -> None:
    """Save *layout*, and let everybody's cached configuration of *instance* be built anew."""
    # ... write *layout* to your database, and commit. Then:
    await publisher.publish(ClearConfigurationCache.for_all("WebClient", instance))


async def save_preference(publisher: Publisher, associate_id: int, preference: str) -> None:
    """Save a *preference* of one associate, whose cached configuration alone has to go."""
    # ... write *preference*, and commit. Then:
    await publisher.publish(ClearConfigurationCache.for_associate("WebClient", "Web", associate_id))
