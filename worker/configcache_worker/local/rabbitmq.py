"""
One private RabbitMQ node, alone or in a cluster with others.

The recipe was found by trying. The server's own script is started, since the packaged wrapper changes user and folder;
everything the node reads or writes is named in its environment; and its epmd (the port mapper of Erlang nodes) is
started beside it, since the one that a node starts by itself outlives it. Made for RabbitMQ 3.10 and later.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from configcache_worker.local import erlang, programs
from configcache_worker.local.errors import ServerFailed
from configcache_worker.local.ports import LOOPBACK, free_ports
from configcache_worker.local.process import Process, run
from configcache_worker.local.sandbox import Sandbox

_START_S = 90.0
_STOP_S = 30.0
_CALL_S = 10.0
_USER = "guest"

_CONFIG: Mapping[str, str] = {
    # Well below most machines' memory: several nodes run side by side.
    "vm_memory_high_watermark.absolute": "1GB",
    "disk_free_limit.absolute": "50MB",
}

_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"


class Cluster(NamedTuple):
    """What a node needs to join a cluster."""

    seed: str
    """The name of its first node."""
    epmd_port: int
    cookie: str
    """The secret that its nodes share."""


@dataclass(frozen=True, slots=True)
class _Node:
    """What stays the same over a node's starts."""

    name: str
    port: int
    cluster: Cluster
    sandbox: Sandbox
    scripts: Path
    environment: Mapping[str, str]


class RabbitMQ:
    """
    A node with data of its own, on free ports of the loopback interface, for the user ``guest``.

    ``stop``, ``kill`` and ``restart`` keep the data, the ports and the URL; :meth:`close`, or leaving the context
    manager, removes everything. One thread at a time.

    Args:
        join: A started node whose cluster this one joins at its first start. Close that one last.
        config: More lines of ``rabbitmq.conf`` by key, such as ``{"consumer_timeout": "1000"}`` (milliseconds).
        advanced: The content of ``advanced.config``, an Erlang list with its full stop.
        environment: More variables for the node's environment.
    """

    def __init__(
        self,
        *,
        join: RabbitMQ | None = None,
        config: Mapping[str, str] | None = None,
        advanced: str = "[].",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._join = join
        self._config = {**_CONFIG, **(config or {})}
        self._advanced = advanced
        self._more_environment = dict(environment or {})
        self._node: _Node | None = None
        self._process: Process | None = None

    def __repr__(self) -> str:
        return f"<RabbitMQ {self._node.name if self._node else 'not started'}>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where clients connect, to the virtual host ``/``."""
        return self._url("/")

    @property
    def node_name(self) -> str:
        """The node's name in its cluster, ``…@localhost``."""
        return self._laid_out().name

    @property
    def cluster(self) -> Cluster:
        """The cluster that the node belongs to, if only of itself."""
        return self._laid_out().cluster

    @property
    def is_running(self) -> bool:
        """Whether the node's process runs."""
        return self._process is not None and self._process.is_running

    def prepare(self) -> None:
        """
        Choose the ports and write the files, so that the URL is known before the first start. Safe to repeat.

        Raises:
            ServerUnavailable: RabbitMQ is not installed.
        """
        self._prepared()

    def start(self) -> None:
        """
        Start the node and wait until it greets clients, about 4 s. Nothing happens if it runs.

        Raises:
            ServerUnavailable: RabbitMQ is not installed.
            ServerFailed: It did not start; the text ends with its log.
        """
        if self.is_running:
            return
        node = self._prepared()
        self._process = node.sandbox.start("rabbitmq", [node.scripts / "rabbitmq-server"], node.environment)
        self._process.wait_ready(lambda: _greets(node.port), timeout_s=_START_S)

    def stop(self) -> None:
        """End the node in order, killing it if that takes too long. Safe to repeat."""
        if self._process:
            self._process.stop(signal.SIGTERM, timeout_s=_STOP_S)

    def kill(self) -> None:
        """
        SIGKILL the node, as a crash would. Safe to repeat.

        A crash also loses what was declared in the last two seconds, for up to RabbitMQ 4 Mnesia writes its log with
        that delay: whole queues, with messages that were confirmed. And a quorum queue whose node dies in its first
        second may come back without a leader for good, for its term and vote are not on the disk. So close to a
        declaration no test of ours means to crash; all that is made to write first.
        """
        if self.is_running:
            with contextlib.suppress(ServerFailed):
                self._evaluate("catch mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()], ok")
        if self._process:
            self._process.kill()

    def restart(self) -> None:
        """Stop in order and start again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the node and its epmd, and remove its data. Safe to repeat."""
        if self._node:
            self._node.sandbox.close()
        self._node = self._process = None

    def log(self) -> str:
        """The node's log and output, over all its starts."""
        return self._process.log() if self._process else ""

    def ctl(self, *arguments: str) -> str:
        """
        Run ``rabbitmqctl`` against the node, about 1 s.

        Returns:
            What it printed.

        Raises:
            ServerFailed: It failed; the text has what it said.
        """
        node = self._laid_out()
        rabbitmqctl = str(node.scripts / "rabbitmqctl")
        return run([rabbitmqctl, "--quiet", *arguments], node.environment, folder=node.sandbox.folder)

    def create_vhost(self, name: str) -> str:
        """
        Create a virtual host, all of it open to ``guest``.

        Returns:
            Its URL.
        """
        self._evaluate(erlang.add_vhost(name, owner=_USER))
        return self._url(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all in it, ending its connections. Nothing happens if there is none."""
        self._evaluate(erlang.delete_vhost(name))

    def add_user(self, name: str, password: str) -> None:
        """Create a user without any rights: the same as ``rabbitmqctl add_user``, in milliseconds."""
        self._evaluate(erlang.add_user(name, password))

    def set_permissions(self, user: str, vhost: str, *, configure: str, write: str, read: str) -> None:
        """Give *user* these rights in *vhost* and no others: the same as ``rabbitmqctl set_permissions``."""
        self._evaluate(erlang.set_permissions(user, vhost, configure=configure, write=write, read=read))

    def delete_user(self, name: str) -> None:
        """Delete a user, ending its connections."""
        self._evaluate(erlang.delete_user(name))

    def _url(self, vhost: str) -> str:
        return f"amqp://{_USER}:{_USER}@{LOOPBACK}:{self._laid_out().port}/{quote(vhost, safe='')}"

    def _prepared(self) -> _Node:
        if self._node is None:
            join = self._join.cluster if self._join else None
            self._node = _lay_out(join, self._config, self._advanced, self._more_environment)
        return self._node

    def _laid_out(self) -> _Node:
        if self._node is None:
            raise RuntimeError("prepare or start the node first")
        return self._node

    def _evaluate(self, expression: str) -> None:
        """
        Evaluate an Erlang expression, whose value must be ``ok``, on the node.

        By ``erl_call``, which Erlang brings along: it takes milliseconds where ``rabbitmqctl`` takes a second, and
        tests do this before and after each.
        """
        node = self._laid_out()
        erl_call = shutil.which("erl_call")
        if erl_call is None:
            answer = self.ctl("eval", f"{expression}.")
        else:
            command = [erl_call, "-sname", node.name, "-e"]
            answer = run(command, node.environment, text_in=f"{expression}.\n", timeout_s=_CALL_S)
        if answer.strip() not in ("ok", "{ok, ok}"):
            raise ServerFailed(f"{node.name} answered {answer.strip()} to {expression}")


def _lay_out(
    join: Cluster | None, config: Mapping[str, str], advanced: str, more_environment: Mapping[str, str]
) -> _Node:
    """Choose name and ports, write the files, start the epmd."""
    scripts, epmd = programs.rabbitmq_scripts(), programs.epmd()
    port, distribution_port, epmd_port = free_ports(3)
    name = f"rabbit{port}@localhost"
    cluster = join or Cluster(name, epmd_port, cookie=secrets.token_hex(16))
    config = {**config, **_discovery(name, cluster.seed)}
    sandbox = Sandbox("rabbitmq")
    sandbox.write(".erlang.cookie", cluster.cookie, mode=0o400)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(sandbox.folder),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_EPMD_PORT": str(cluster.epmd_port),
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_schedulers()} {_LOOPBACK_ONLY}",
        "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
        # Without a shell around it that forwards signals: the process we start is the node itself.
        "RUNNING_UNDER_SYSTEMD": "true",
        **{f"RABBITMQ_{variable}": str(path) for variable, path in _files(sandbox, config, advanced).items()},
        **more_environment,
    }
    if join is None:
        sandbox.start("epmd", [epmd], environment)
    return _Node(name, port, cluster, sandbox, scripts, environment)


def _files(sandbox: Sandbox, config: Mapping[str, str], advanced: str) -> Mapping[str, str | Path]:
    """Every file and folder that the node would otherwise look for in the system's places, by variable."""
    lines = "".join(f"{key} = {value}\n" for key, value in config.items())
    data = sandbox.folder / "data"
    return {
        "CONF_ENV_FILE": "/dev/null",
        "CONFIG_FILE": sandbox.write("rabbitmq.conf", lines),
        "ADVANCED_CONFIG_FILE": sandbox.write("advanced.config", advanced),
        "ENABLED_PLUGINS_FILE": sandbox.write("enabled_plugins", "[]."),
        "MNESIA_BASE": data,
        "LOG_BASE": data / "log",
        "LOGS": "-",
        "PID_FILE": data / "pid",
    }


def _discovery(name: str, seed: str) -> Mapping[str, str]:
    """The lines by which a node finds the cluster of *seed* when it starts for the first time."""
    if name == seed:
        return {}
    return {
        "cluster_formation.peer_discovery_backend": "classic_config",
        "cluster_formation.classic_config.nodes.1": seed,
        "cluster_formation.classic_config.nodes.2": name,
    }


def _schedulers() -> str:
    """A few threads, none of which busy-waits for work: one for each processor is what a node costs at rest."""
    return f"+S {min(4, os.cpu_count() or 1)} +sbwt none +sbwtdcpu none +sbwtdio none"


def _greets(port: int) -> bool:
    """Whether an AMQP 0-9-1 server opens the conversation on *port*: with a method frame, whose type is 1."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5.0) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
