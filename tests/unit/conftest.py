"""What several unit tests start from."""

import pytest

from tests.unit.rig import Rig, running


@pytest.fixture
async def rig():
    """A pipeline that runs, over in-memory ports."""
    async with running(Rig()) as found:
        yield found
