"""
How to test a service that publishes. The fixtures come with the package::

    pip install "clear-configuration-cache[testing]"
    pytest examples/test_my_service.py
"""

import pytest
from my_service import save_layout, save_preference

from configcache import BrokerUnavailable, ClearConfigurationCache
from configcache.recording import Failure


@pytest.mark.asyncio
async def test_a_saved_layout_clears_everybodys_cache(recording_publisher):
    await save_layout(recording_publisher, "Web", "two columns")

    assert recording_publisher.commands == [ClearConfigurationCache.for_all("WebClient", "Web")]


@pytest.mark.asyncio
async def test_a_broker_that_is_away_is_the_callers_to_know(recording_publisher):
    recording_publisher.fail(Failure.UNREACHABLE)

    with pytest.raises(BrokerUnavailable):
        await save_layout(recording_publisher, "Web", "two columns")


@pytest.mark.asyncio
async def test_a_preference_clears_one_associates_rows_and_no_others(configuration_cache):
    async with configuration_cache() as system:
        await system.fill([("WebClient", "Web", 42, "Contact"), ("WebClient", "Web", 43, "Contact")])
        await save_preference(system.publisher, 42, "large print")
        await system.settled()

        assert await system.rows() == {("WebClient", "Web", 43, "Contact")}
