"""What Prometheus asks of RabbitMQ is there: on a real broker with its plugin, the figures of our queues."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from urllib.parse import urlencode

from configcache.topology import COMMAND_QUEUE, DEAD_LETTER_QUEUE
from configcache_worker.local.ports import LOOPBACK
from tests.commands import declare
from tests.unit.test_observability import OF_RABBITMQ, SCRAPES
from tests.waiting import eventually


async def test_the_broker_tells_depth_and_consumers_of_both_queues(managed, broker_metrics_port):
    await declare(managed[0])
    job = SCRAPES["rabbitmq"]
    url = (
        f"http://{LOOPBACK}:{broker_metrics_port}{job['metrics_path']}?{urlencode(job['params'], doseq=True)}"
    )
    wanted = {(name, queue) for name in OF_RABBITMQ for queue in (COMMAND_QUEUE, DEAD_LETTER_QUEUE)}

    async def are_told():
        return wanted <= await told(url)

    assert await eventually(are_told)  # a queue shows up with its first report


async def told(url):
    """The metrics at *url* that name a queue, each with the queue."""
    body = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    return set(re.findall(r'^(rabbitmq_\w+)\{[^}]*\bqueue="([^"]+)"[^}]*\} \S+$', body, re.MULTILINE))
