"""
The same work as an actor of Dramatiq, on psycopg: eight threads, each with a connection of its own.

Dramatiq acknowledges when the actor has returned, which is after the commit. Its middleware is the usual one, but for
what this actor does not need: pipelines, callbacks and limits on time and age. A prefetch of 400 makes it faster than its
own choice of two for each thread; four threads, or two processes, made it slower.

    BROKER_URL=... DATABASE_URL=... dramatiq_queue_prefetch=400 \\
        dramatiq benchmarks.contenders.dramatiq_worker --processes 1 --threads 8
"""

import os
import threading

import dramatiq
import psycopg
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Retries

from benchmarks.contenders.envelope import ACTOR, QUEUE
from configcache import ClearConfigurationCache

DELETE = """
DELETE FROM configuration_cache
WHERE application = %s AND instance = %s AND (%s::bigint IS NULL OR associate_id = %s)
"""


class QuorumBroker(RabbitmqBroker):
    """Dramatiq's broker, on quorum queues."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, object]:
        return {**super()._build_queue_arguments(queue_name), "x-queue-type": "quorum"}


dramatiq.set_broker(QuorumBroker(url=os.environ["BROKER_URL"], middleware=[Retries(max_retries=3)]))
connections = threading.local()


def connection() -> psycopg.Connection:
    """The calling thread's."""
    if not hasattr(connections, "own"):
        connections.own = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    return connections.own


@dramatiq.actor(queue_name=QUEUE, actor_name=ACTOR)
def clear(**properties: object) -> None:
    command = ClearConfigurationCache.model_validate(properties, by_alias=True, by_name=False)
    associate = command.associate_id
    connection().execute(DELETE, (command.application, command.instance, associate, associate), prepare=True)
