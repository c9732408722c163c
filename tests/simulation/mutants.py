"""
Break the program on purpose, one promise at a time, and see that the simulation notices: ``make mutants``.

Each mutation replaces text of one or more modules in a copy of the sources. A mutation whose text is no longer there is an
error: whoever changes the code changes the list. One that survives is an error too, and a gap in the simulation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CORE = "worker/configcache_worker/core"
_SOURCES = ("worker", "contracts")
_SCHEDULES = 3_000
_TIMEOUT_S = 240


@dataclass(frozen=True)
class Edit:
    """Replace *old*, which is there once, by *new*."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """What is broken, and how."""

    name: str
    edits: tuple[Edit, ...]


def _core(module: str, old: str, new: str) -> Edit:
    return Edit(f"{CORE}/{module}.py", old, new)


MUTATIONS = (
    Mutation(
        "acknowledged before the commit",
        (
            _core(
                "clearing",
                "        intake.done(done)\n        self._totals.committed(",
                "        self._totals.committed(",
            ),
            _core(
                "clearing",
                "            group = groups.popleft()\n",
                "            group = groups.popleft()\n            intake.done(tags(group))\n",
            ),
        ),
    ),
    Mutation(
        "deliveries of a lost session settled on the next one",
        (
            _core(
                "pipeline",
                "        if self._intake is None or self._intake.session is not session:\n",
                "        if self._intake is not None:\n            self._intake.session = session\n        else:\n",
            ),
            _core("pipeline", "        self._intake = None\n        self._clearing.drop_intake()\n", ""),
        ),
    ),
    Mutation(
        "acknowledged past an open tag",
        (
            _core(
                "ledger",
                "        lowest_open = self._advance()\n",
                "        lowest_open = self._highest + 1\n",
            ),
        ),
    ),
    Mutation(
        "acknowledged up to a tag that was settled before",
        (_core("ledger", "max(below, default=None)", "lowest_open - 1 or None"),),
    ),
    Mutation(
        "convicted without contrast",
        (_core("faults", "counts = may_convict and contrasts > before.contrasts", "counts = may_convict"),),
    ),
    Mutation(
        "convicted at the first failure",
        (_core("faults", "_CONVICTING_FAILURES = 3", "_CONVICTING_FAILURES = 1"),),
    ),
    Mutation(
        "contrast by clears that deleted nothing",
        (_core("trials", "self._contrasts += rows > 0", "self._contrasts += 1"),),
    ),
    Mutation(
        "convicted for a lock or an outage",
        (_core("faults", "may_convict = blame(fault) is Blame.COMMAND and not", "may_convict = not"),),
    ),
    Mutation(
        "convicted for a fault of this program",
        (_core("faults", "Blame.COMMAND and not fault.unexpected", "Blame.COMMAND"),),
    ),
    Mutation(
        "dropped when cancelled",
        (
            _core(
                "clearing",
                "            except TableFault as caught:\n                fault = caught\n",
                "            except asyncio.CancelledError:\n"
                "                intake.done(tags(group))\n"
                "                raise\n"
                "            except TableFault as caught:\n                fault = caught\n",
            ),
        ),
    ),
    Mutation(
        "half of a failing batch forgotten",
        (
            _core(
                "coalesce",
                "        return [list(works[:middle]), list(works[middle:])]",
                "        return [list(works[:middle])]",
            ),
        ),
    ),
    Mutation(
        "absorbed deliveries left without an answer",
        (_core("coalesce", "        if absorbed:\n            found += tags(absorbed)\n", ""),),
    ),
    Mutation(
        "commands absorbed by another instance's clear",
        (_core("coalesce", "name, associate_id = scope[:2]", "name, associate_id = scope[:1]"),),
    ),
    Mutation(
        "acknowledged after the first chunk",
        (_core("clearing", "            if chunk.last is None:", "            if chunk is not None:"),),
    ),
    Mutation(
        "set aside and forgotten",
        (
            _core(
                "clearing",
                "suspicion, due=due)\n            intake.put_aside(work.scope, work.deliveries)\n",
                "suspicion, due=due)\n",
            ),
        ),
    ),
    Mutation(
        "a hopeless batch set aside and forgotten",
        (
            _core(
                "clearing",
                "due=now())\n            intake.put_aside(work.scope, work.deliveries)\n",
                "due=now())\n",
            ),
        ),
    ),
    Mutation(
        "commands that came during a trial forgotten",
        (
            _core(
                "clearing",
                "                    intake.put_aside(scope, [delivery])\n",
                "                    pass\n",
            ),
        ),
    ),
    Mutation(
        "too slow, and asked for as much again",
        (_core("clearing", "                self._pace = slower\n", ""),),
    ),
    Mutation(
        "poison acknowledged without a confirm",
        (
            _core(
                "burials",
                "        intake.done(tags[Burial.CONFIRMED])",
                "        intake.done(tags[Burial.CONFIRMED] + tags[Burial.UNAVAILABLE])",
            ),
        ),
    ),
    Mutation(
        "poison that could not be published forgotten",
        (_core("burials", "                intake.letters.append(letter)\n", "                pass\n"),),
    ),
    Mutation(
        "poison without bound",
        (_core("burials", "            intake.session.pause()\n", "            pass\n"),),
    ),
    Mutation(
        "reading never resumed",
        (
            _core(
                "burials",
                "        if intake.held_bytes <= self._resume_bytes:\n            intake.session.resume()\n",
                "",
            ),
        ),
    ),
    Mutation(
        "good commands behind poison that cannot be published",
        (
            _core(
                "burials",
                "        if intake.held_bytes <= self._pause_bytes:\n            intake.session.resume()\n            return\n",
                "        if intake.held_bytes <= self._pause_bytes:\n            return\n",
            ),
        ),
    ),
    Mutation(
        "consuming again before a letter got through",
        (_core("pipeline", "        await self._burials.recover()\n", ""),),
    ),
    Mutation(
        "consuming again before the table could be written",
        (_core("pipeline", "        await self._clearing.recover()\n", ""),),
    ),
    Mutation(
        "rejects written down and not sent",
        (_core("pipeline", "            intake.settle()\n", ""),),
    ),
    Mutation(
        "equal bodies taken for equal messages",
        (
            _core(
                "decoding",
                "if properties is not self._properties:",
                "if properties[:2] != self._properties[:2]:",
            ),
        ),
    ),
    Mutation(
        "messages that differ in the associate taken for equal",
        (
            _core(
                "decoding",
                "return Scope(known.application, known.instance, int(body[len(stem) : -1]))",
                "return known",
            ),
        ),
    ),
    Mutation(
        "one half of the worker dies, and the other goes on",
        (
            _core(
                "pipeline",
                "        async with asyncio.TaskGroup() as tasks:\n"
                '            tasks.create_task(self._clearing.run(), name="clear")\n'
                '            tasks.create_task(self._burials.run(), name="bury")\n',
                "        await asyncio.gather(self._clearing.run(), self._burials.run(), return_exceptions=True)\n",
            ),
        ),
    ),
    Mutation(
        "stopped without flushing the acknowledgements",
        (
            Edit(
                "worker/configcache_worker/app.py",
                "            await session.flush()\n",
                "            pass\n",
            ),
        ),
    ),
    Mutation(
        "a stop cuts short the close of a session",
        (
            Edit(
                "contracts/configcache/connection.py",
                "await _to_its_end(session.close())",
                "await session.close()",
            ),
        ),
    ),
    Mutation(
        "deliveries counted to the broker's own limit",
        (
            Edit(
                "contracts/configcache/topology.py",
                '                    "x-delivery-limit": _DELIVERY_LIMIT,\n                    "x-dead-letter-exchange"',
                '                    "x-dead-letter-exchange"',
            ),
        ),
    ),
    Mutation(
        "a delivery limit that RabbitMQ 3.10 takes for none at all",
        (
            Edit(
                "contracts/configcache/topology.py",
                "_DELIVERY_LIMIT: Final = 1_000_000_000",
                "_DELIVERY_LIMIT: Final = -1",
            ),
        ),
    ),
)


def main() -> int:
    with (
        tempfile.TemporaryDirectory(prefix="configcache-mutants-") as folder,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        results = pool.map(lambda mutation: judge(mutation, Path(folder)), MUTATIONS)
        survivors = 0
        for mutation, (verdict, seconds) in zip(MUTATIONS, results, strict=True):
            print(f"{seconds:6.1f} s  {verdict:<40}  {mutation.name}", flush=True)
            survivors += verdict == "SURVIVED"
    print(f"{len(MUTATIONS) - survivors} of {len(MUTATIONS)} mutations were noticed")
    return 1 if survivors else 0


def apply(mutation: Mutation, folder: Path) -> None:
    """
    Copy the sources into *folder*, with *mutation*.

    Raises:
        ValueError: The text of an edit is not there, or not there once.
    """
    for source in _SOURCES:
        shutil.copytree(PROJECT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutation.edits:
        path = folder / edit.path
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise ValueError(f"{mutation.name}: {edit.path} has {text.count(edit.old)} times {edit.old!r}")
        path.write_text(text.replace(edit.old, edit.new))


def judge(mutation: Mutation, parent: Path) -> tuple[str, float]:
    """Run the simulation on the mutated sources: what it noticed, and after how many seconds."""
    folder = parent / mutation.name.replace(" ", "-")
    apply(mutation, folder)
    paths = [str(folder / source) for source in _SOURCES] + [str(PROJECT)]
    command = [sys.executable, "-m", "tests.simulation", "--until-broken", "--schedules", str(_SCHEDULES)]
    started_s = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "noticed: it never ended", time.monotonic() - started_s
    verdict = "SURVIVED" if done.returncode == 0 else f"noticed: {done.stdout.strip() or done.stderr[-300:]}"
    return verdict, time.monotonic() - started_s


if __name__ == "__main__":
    sys.exit(main())
