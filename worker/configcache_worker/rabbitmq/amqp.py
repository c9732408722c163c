"""Frames of AMQP 0-9-1, as far as deliveries are made of them."""

from __future__ import annotations

import struct
from typing import Final

FRAME_METHOD: Final = 1
FRAME_HEADER: Final = 2
FRAME_BODY: Final = 3
FRAME_HEARTBEAT: Final = 8
FRAME_END: Final = 0xCE
FRAME_PREFIX: Final = struct.Struct(">BHI")
"""Type, channel, size of the payload."""

LONGEST_BODY_BYTES: Final = 1 << 20
"""The bytes of a longer body are discarded as they pass: its delivery is refused as too large."""
