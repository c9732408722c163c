"""
What the documents take for granted: the reader's tables, and what shell commands run instead of the real ones, as a
program: ``python stand_ins.py NAME ARGUMENTS``.

``configcache`` is the real program, but a verb that would run for ever is stopped as soon as it is ready. ``make``,
``pip`` and ``docker`` only look whether what they are asked for exists: what it does has tests of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).parents[2]
CONFIGCACHE = [sys.executable, "-m", "configcache_worker"]
ENDLESS_VERBS = {"worker", "relay", "gateway"}
PATIENCE_S = 30.0

TABLES = """
CREATE TABLE externalapplication (id int PRIMARY KEY, name text, url text, updated_at timestamptz, updated_by bigint);
INSERT INTO externalapplication VALUES (1, 'Weather', 'https://weather.example');
CREATE TABLE crm_user (
    id int PRIMARY KEY, login varchar(40), password_hash text, is_general_administrator boolean, retired boolean
);
CREATE TABLE crm_session (id text PRIMARY KEY, xsrf_token text, user_id int, ends_at timestamptz);
DO $$ BEGIN CREATE ROLE app; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE relay; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE gateway; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""
"""What the statements of documents take for granted: tables of the reader's, and roles."""

# Options of docker compose whose value is the next argument.
_WITH_VALUE = {
    "--profile",
    "-f",
    "--file",
    "--scale",
    "-t",
    "--timeout",
    "-e",
    "--env",
    "--env-file",
    "--tail",
}


class Wrong(Exception):
    """The document asks for what does not exist."""


def configcache(arguments):
    """The real program, against the servers that the environment names."""
    if arguments and arguments[0] in ENDLESS_VERBS and "--hash-password" not in arguments:
        return _until_ready(arguments)
    if arguments[:1] == ["demo"]:
        arguments = ["demo", "--help"]  # it starts servers of its own, for half a minute
    return subprocess.run([*CONFIGCACHE, *arguments], check=False).returncode


def make(arguments):
    """Every target must be in the Makefile."""
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in (argument for argument in arguments if "=" not in argument):
        if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE):
            raise Wrong(f"the Makefile has no target {target}")


def pip(arguments):
    """Every requirement must be ours, with extras that exist."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    verb, *requirements = arguments
    if verb != "install" or not requirements:
        raise Wrong("pip is asked for something else than to install")
    for requirement in requirements:
        asked = re.fullmatch(rf"{project['name']}(?:\[([\w,]+)\])?", requirement)
        if asked is None:
            raise Wrong(f"{requirement} is not {project['name']}")
        for extra in filter(None, (asked[1] or "").split(",")):
            if extra not in project["optional-dependencies"]:
                raise Wrong(f"there is no extra {extra}")


def docker(arguments):
    """Services and profiles must be in the compose file; a service that is one of our verbs is run for real."""
    compose = (PROJECT / "docker-compose.yml").read_text(encoding="utf-8")
    services = set(re.findall(r"^  ([\w-]+):\s*$", compose.partition("\nservices:\n")[2], re.MULTILINE))
    if arguments[:1] != ["compose"]:
        raise Wrong("docker is asked for something else than compose")
    words, profiles = _without_options(arguments[1:])
    verb, *named = words
    for profile in profiles:
        if not re.search(rf"profiles:.*\b{re.escape(profile)}\b", compose):
            raise Wrong(f"no service has the profile {profile}")
    if verb in {"run", "exec"}:
        named = named[:1]
    for service in named:
        if service not in services:
            raise Wrong(f"there is no service {service}")
    if verb == "run" and named[0] == "publish":
        return configcache(arguments[arguments.index("publish") :])
    return 0


def _without_options(arguments):
    """The arguments that are no options, and the profiles; what stands behind a service to run is its own."""
    words, profiles = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument in _WITH_VALUE:
            value = next(rest)
            if argument == "--profile":
                profiles.append(value)
        elif not argument.startswith("-"):
            words.append(argument)
            if len(words) == 2 and words[0] in {"run", "exec"}:
                break
    return words, profiles


def _until_ready(arguments):
    """Run a verb until its probe says that it is ready, then end it as an operator does."""
    from configcache_worker.local.ports import LOOPBACK, free_ports

    port, other_port = free_ports(2)
    ports = {
        "CONFIGCACHE_TELEMETRY__PORT": str(port),
        "CONFIGCACHE_GATEWAY__PORT": str(other_port),
    }
    process = subprocess.Popen([*CONFIGCACHE, *arguments], env=os.environ | ports)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _is_ready(f"http://{LOOPBACK}:{port}/readyz"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"{arguments[0]} was not ready in {PATIENCE_S:g} s")
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        return process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def _is_ready(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


STAND_INS = {"configcache": configcache, "make": make, "pip": pip, "docker": docker}


def main():
    name, *arguments = sys.argv[1:]
    try:
        return STAND_INS[name](arguments)
    except Wrong as wrong:
        return f"{name} {' '.join(arguments)}: {wrong}"


if __name__ == "__main__":
    sys.exit(main())
