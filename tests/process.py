"""Worker and relay as an operator runs them."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from configcache_worker.local.ports import LOOPBACK, free_ports

_NUMBERS = itertools.count(1)


class WorkerProcess:
    """``configcache worker``, or *verb*, in a process of its own, with *settings*' URLs, logging JSON to a file."""

    def __init__(self, settings, *, folder, environment, program=("-m", "configcache_worker"), verb="worker"):
        (self.port,) = free_ports(1)
        self.log_path = folder / f"{verb}-{next(_NUMBERS)}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGCACHE_")}
        with self.log_path.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *program, verb],
                cwd=folder,
                stderr=output,
                env=inherited
                | {
                    "CONFIGCACHE_BROKER__URL": settings.broker.url,
                    "CONFIGCACHE_DATABASE__URL": settings.database.url,
                    "CONFIGCACHE_WORKER__LONGEST_RETRY_S": "0.5",
                    "CONFIGCACHE_RELAY__LONGEST_RETRY_S": "0.5",
                    "CONFIGCACHE_TELEMETRY__PORT": str(self.port),
                    "CONFIGCACHE_TELEMETRY__LOG_FORMAT": "json",
                }
                | environment,
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.kill()

    def __repr__(self):
        return f"<WorkerProcess {self._process.pid}, log in {self.log_path}>"

    @property
    def pid(self):
        return self._process.pid

    def kill(self):
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait()

    def terminate(self, *, timeout_s=30):
        """SIGTERM, and wait: the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def wait(self, *, timeout_s=30):
        """The exit code of a process that ends by itself."""
        return self._process.wait(timeout_s)

    @property
    def is_running(self):
        return self._process.poll() is None

    def signal(self, number):
        """Send the signal *number*."""
        self._process.send_signal(number)

    def peak_bytes(self):
        """The most memory it has had, of its own."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(peak) * 1024

    def readiness(self):
        """What ``/readyz`` says, or nothing while nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{self.port}/readyz", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as answer:
            with answer:
                return json.load(answer)
        except OSError:
            return None

    def is_ready(self):
        return (self.readiness() or {}).get("ready", False)

    def events(self, name=None):
        """The log so far, line by line; those called *name* where it is given."""
        *lines, _ = self.log_path.read_text().split("\n")  # the last one is not finished, or empty
        found = [json.loads(line) for line in lines]
        return [event for event in found if name is None or event["event"] == name]


def start_process(
    stack, folder, settings, *, program=("-m", "configcache_worker"), verb="worker", **environment
):
    """Start a worker that *stack* ends, with settings from *environment* over the usual ones."""
    process = WorkerProcess(settings, folder=folder, environment=environment, program=program, verb=verb)
    return stack.enter_context(process)
