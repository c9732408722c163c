"""How much at most, where nobody says otherwise. Constants only, so that a manual can name them without a driver."""

from __future__ import annotations

from typing import Final

USUAL_LOOK: Final = 1000
"""Letters held at a time."""
MOST_LOOKED_AT: Final = 65_535
"""AMQP can't ask for more unanswered deliveries."""
MAX_REPLAYS: Final = 3
"""A letter that came back so often would come back again."""
LONGEST_PROPERTIES_BYTES: Final = 131_052
"""What fits into one frame of RabbitMQ's, as it is set up by itself: a broker takes no longer ones."""
USUAL_RATE_PER_S: Final = 100.0
"""Well below what one worker clears, so that commands of today are not kept waiting by those of yesterday."""
