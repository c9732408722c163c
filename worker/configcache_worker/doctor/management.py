"""What only the broker's management API tells: whether the bindings are there, and whether a policy lowers the limit."""

from __future__ import annotations

from typing import Final

from configcache.topology import COMMAND_QUEUE, TOPOLOGY, Binding
from configcache_worker.doctor.findings import Finding, Report, State
from configcache_worker.rabbitmq.management import LimitPolicy, ManagementApi, ManagementUnavailable
from configcache_worker.settings import BrokerSettings

BINDINGS: Final = "bindings"
DELIVERY_LIMIT: Final = "delivery-limit"

CHECKS: Final = (BINDINGS, DELIVERY_LIMIT)

_TIMEOUT_S: Final = 10.0
_ASK_IT: Final = "configcache doctor --management http://HOST:15672"
_ASK_AS_ANOTHER: Final = (
    "configcache doctor --management http://USER:PASSWORD@HOST:15672, with a user tagged monitoring"
)


async def examine(broker: BrokerSettings, management_url: str | None, report: Report) -> None:
    """Ask the management API at *management_url*; without one, say that AMQP does not tell."""
    if management_url is None:
        _skip("AMQP does not tell; the management API does", _ASK_IT, report)
        return
    api = ManagementApi(management_url, broker_url=broker.url, timeout_s=_TIMEOUT_S)
    try:
        there = set().union(*[await api.bindings(queue.name) for queue in TOPOLOGY.queues])
        policy = await api.limit_policy(COMMAND_QUEUE)
    except ManagementUnavailable as error:
        _skip(str(error), _ASK_AS_ANOTHER, report)
        return
    report(_bindings(there))
    report(_delivery_limit(policy))


def _skip(reason: str, mend: str, report: Report) -> None:
    for check in CHECKS:
        report(Finding(check, State.SKIPPED, f"not checked: {reason}", mend))


def _bindings(there: set[Binding]) -> Finding:
    missing = [binding for binding in TOPOLOGY.bindings if binding not in there]
    if not missing:
        return Finding(BINDINGS, State.OK, "exchanges are bound to their queues")
    texts = [f"{binding.exchange} to {binding.queue}" for binding in missing]
    return Finding(BINDINGS, State.WRONG, f"not bound: {', '.join(texts)}", "configcache topology")


def _delivery_limit(policy: LimitPolicy) -> Finding:
    (queue,) = [queue for queue in TOPOLOGY.queues if queue.name == COMMAND_QUEUE]
    declared = int(queue.arguments["x-delivery-limit"])
    if policy.delivery_limit is None or policy.delivery_limit >= declared:
        return Finding(DELIVERY_LIMIT, State.OK, "no policy lowers it")
    names = " and ".join(policy.names)
    return Finding(
        DELIVERY_LIMIT,
        State.WARNING,
        f"lowered to {policy.delivery_limit} by {names}: after so many lost connections a good command is a dead letter",
        f"take delivery-limit out of {names}",
    )
