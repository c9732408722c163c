"""How findings are gathered: within bounded time, in order, nothing left out."""

from __future__ import annotations

import asyncio

from configcache_worker.doctor.findings import Finding, State, gathered

CHECKS = ("server", "table", "rights")


def states(findings):
    return [(finding.check, finding.state) for finding in findings]


async def test_what_was_not_come_to_is_told_with_its_obstacle():
    async def examine(report):
        report(Finding("server", State.WRONG, "it is down"))

    findings = await gathered(CHECKS, examine, timeout_s=10)

    assert states(findings) == [
        ("server", State.WRONG),
        ("table", State.SKIPPED),
        ("rights", State.SKIPPED),
    ]
    assert findings[1].text == "not checked: first mend server"


async def test_what_was_found_before_the_time_was_over_is_kept():
    async def examine(report):
        report(Finding("server", State.OK, "it is there"))
        await asyncio.Event().wait()

    findings = await gathered(CHECKS, examine, timeout_s=0.01)

    assert states(findings) == [("server", State.OK), ("table", State.WRONG), ("rights", State.SKIPPED)]
    assert findings[1].text == "no answer in 0.01 s"


async def test_findings_come_in_the_order_of_the_checks():
    async def examine(report):
        report(Finding("rights", State.WRONG, "none"))
        report(Finding("server", State.OK, "it is there"))

    findings = await gathered(CHECKS, examine, timeout_s=10)

    assert states(findings) == [("server", State.OK), ("table", State.SKIPPED), ("rights", State.WRONG)]
