"""
The broker's limit: takes messages and acknowledges them, and does nothing else.

A prefetch of 5,000, one multiple acknowledgement for each read from the socket; of a frame only type and length are looked
at. Ends after COUNT messages, when the broker has taken the last acknowledgement, and prints how many seconds passed
since it began to consume, and how much processor time.

    BROKER_URL=... COUNT=... python -m benchmarks.contenders.broker_limit
"""

import os
import time

from pamqp import commands

from benchmarks.amqp import BODY_FRAME, FRAME, READ_BYTES, Channel
from configcache.topology import COMMAND_QUEUE

PREFETCH = 5_000
FEWEST_ACKNOWLEDGED = 500


def main(broker_url: str, count: int) -> None:
    with Channel(broker_url) as channel:
        channel.call(commands.Basic.Qos(prefetch_count=PREFETCH), commands.Basic.QosOk)
        channel.call(commands.Basic.Consume(queue=COMMAND_QUEUE), commands.Basic.ConsumeOk)
        began, cpu_began = time.monotonic(), time.process_time()
        buffer = channel.take_unread()
        taken = acknowledged = 0
        while taken < count:
            buffer += channel.socket.recv(READ_BYTES)
            bodies, position = cut(buffer)
            buffer = buffer[position:]
            taken += bodies
            if taken == count or taken - acknowledged >= FEWEST_ACKNOWLEDGED:
                channel.send(commands.Basic.Ack(delivery_tag=taken, multiple=True))
                acknowledged = taken
        channel.call(commands.Basic.Qos(prefetch_count=PREFETCH), commands.Basic.QosOk)
        print(time.monotonic() - began, time.process_time() - cpu_began)


def cut(buffer: bytes) -> tuple[int, int]:
    """How many bodies *buffer* has, one for each message here, and where its first incomplete frame begins."""
    bodies = position = 0
    unpack, overhead, length = FRAME.unpack_from, FRAME.size + 1, len(buffer)
    while position + overhead <= length:
        kind, _, size = unpack(buffer, position)
        end = position + overhead + size
        if end > length:
            break
        bodies += kind == BODY_FRAME
        position = end
    return bodies, position


if __name__ == "__main__":
    main(os.environ["BROKER_URL"], int(os.environ["COUNT"]))
