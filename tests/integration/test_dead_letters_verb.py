"""``configcache dead-letters`` on a real broker: what is printed, what is in the queues afterwards, and exit codes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys

import pytest
from pamqp.commands import Basic

from configcache import BrokerUnavailable, Reason, decode
from configcache.connection import close_connection, connect
from configcache.topology import (
    COMMAND_EXCHANGE,
    COMMAND_QUEUE,
    COMMAND_ROUTING_KEY,
    DEAD_LETTER_QUEUE,
    OPERATOR_PERMISSIONS,
    Permissions,
)
from configcache_worker.__main__ import main
from configcache_worker.cli import CommandFailed
from configcache_worker.cli.dead_letters import exporting, importing
from configcache_worker.core.ports import Settlement
from configcache_worker.letters.looking import look, read
from configcache_worker.letters.moving import export
from configcache_worker.letters.opening import open_box, open_post
from configcache_worker.letters.records import to_line
from configcache_worker.letters.replaying import Replaying
from configcache_worker.letters.selection import EVERYTHING
from configcache_worker.rabbitmq.declare import declare
from configcache_worker.rabbitmq.deliveries import Deliveries
from configcache_worker.rabbitmq.letter_box import LetterBox
from configcache_worker.rabbitmq.workbench import Workbench
from configcache_worker.settings import BrokerSettings
from tests.commands import published
from tests.conftest import available
from tests.letters import FOR_42, FOR_ALL, NO_ASSOCIATE, NOW_MS, UNREADABLE, buried, plant
from tests.proxy import Proxy
from tests.terminals import open_terminal
from tests.users import user
from tests.waiting import eventually


@pytest.fixture(scope="module")
def shared_vhost(servers):
    """The URL of a virtual host with the topology on it, for all tests here."""
    with available(), servers.vhost() as url:
        asyncio.run(on_connection(url, lambda connection: declare(connection, may_declare=True)))
        yield url


@pytest.fixture
def url(shared_vhost):
    """The same, with empty queues."""
    yield shared_vhost
    asyncio.run(on_channel(shared_vhost, empty))


@pytest.fixture
def environment(url):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONFIGCACHE_")}
    return {**inherited, "CONFIGCACHE_BROKER__URL": url, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, environment):
    """Runs a part of the verb: exit code, and lines of both outputs."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CONFIGCACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CONFIGCACHE_BROKER__URL", environment["CONFIGCACHE_BROKER__URL"])

    def run(*arguments):
        code = main(["dead-letters", *arguments])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out.splitlines(), printed.err.splitlines()

    return run


async def on_connection(url, act):
    connection = await connect(url, name="test", timeout_s=10, heartbeat_s=10)
    try:
        return await act(connection)
    finally:
        await close_connection(connection)


async def on_channel(url, act):
    async def with_channel(connection):
        return await act(await (await connection.channel()).get_underlay_channel())

    return await on_connection(url, with_channel)


async def empty(channel):
    await channel.queue_purge(DEAD_LETTER_QUEUE)
    await channel.queue_purge(COMMAND_QUEUE)


def planted(url, *letters):
    """Plant letters of a worker: each a body, or a body and what `buried` takes."""
    pairs = [letter if isinstance(letter, tuple) else (letter, {}) for letter in letters]
    made = [(body, buried(body, **options)) for body, options in pairs]
    asyncio.run(plant(url, *made))
    return [message_id for _, (message_id, _) in made]


def rejected(url, *messages):
    """Have the broker dead-letter its own copies of commands, each a body and properties, as a worker does."""

    async def publish_and_reject():
        async with Workbench(url) as bench:
            for body, properties in messages:
                await bench.publish(body, properties)
        session = await Deliveries(
            url=url,
            prefetch=len(messages),
            connect_timeout_s=10,
            heartbeat_s=10,
            receive=lambda session, deliveries: session.settle(
                Settlement([delivery.tag for delivery in deliveries], None, [])
            ),
        ).open()
        try:
            await eventually(lambda: depth_is(url, DEAD_LETTER_QUEUE, len(messages)))
        finally:
            await session.close()

    asyncio.run(publish_and_reject())


async def depth(url, queue):
    async with Workbench(url) as bench:
        return await bench.depth(queue)


async def depth_is(url, queue, expected):
    return await depth(url, queue) == expected


def letters_left(url):
    return asyncio.run(depth(url, DEAD_LETTER_QUEUE))


def commands_in(url):
    """Take out the commands that are in their queue."""
    return asyncio.run(published(url))


def associates(url):
    """Whose commands are in the queue; take them out."""
    return [decode(message.body).associate_id for message in commands_in(url)]


def bodies_for(associate_ids):
    return [
        b'{"Application":"WebClient","Instance":"Web","AssociateId":%d}' % number for number in associate_ids
    ]


def settings_of(url):
    return BrokerSettings(url=url)


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_counts_letters_by_reason_and_producer_and_leaves_them_there(run, url):
    first, *_ = planted(
        url,
        (NO_ASSOCIATE, {"app_id": "shop", "now_ms": NOW_MS}),
        (NO_ASSOCIATE, {"app_id": "shop", "now_ms": NOW_MS + 60_000}),
        (b"{", {"reason": Reason.INVALID_JSON, "app_id": "\x1b[2Jold"}),
    )

    code, out, err = run("list")

    assert (code, err) == (0, [])
    assert [line.split("  ")[0] for line in out] == ["REASON", "missing-associate", "invalid-json"]
    assert (
        out[1].split() == f"missing-associate shop 2 2023-11-14 22:13:20 2023-11-14 22:14:20 {first}".split()
    )
    assert "\\x1b[2Jold" in out[2]
    assert letters_left(url) == 3


def test_list_tells_letters_one_by_one_and_machines_too(run, url):
    ids = planted(url, (FOR_42, {"headers": {"replayed": 2}}), (b"{", {"reason": Reason.INVALID_JSON}))

    assert [line.split()[0] for line in run("list", "--letters")[1][1:]] == ids
    found = json.loads("\n".join(run("list", "--letters", "--json", "--reason", "missing-associate")[1]))

    assert (found["looked_at"], found["more"]) == (2, 0)
    assert [(letter["id"], letter["replayed"]) for letter in found["letters"]] == [(ids[0], 2)]
    assert [group["letters"] for group in found["groups"]] == [1]


def test_list_says_when_there_is_nothing_and_when_there_is_more(run, url):
    assert run("list") == (0, ["no dead letters"], [])

    planted(url, b"1", b"2", b"3")

    assert run("list", "--reason", "invalid-json")[1] == ["no such dead letters"]
    assert run("list", "--look", "2")[1][-1] == "1 more letter not looked at; --look N looks at more"


async def test_who_looks_beside_another_is_told_so_and_all_letters_come_back(url):
    await plant(url, *((b"%d" % number, buried(b"")) for number in range(5)))
    broker = settings_of(url)

    async with open_box(broker, most=10) as box:
        held = [letter async for letter in read(box, EVERYTHING)]
        beside = await look(broker)
    afterwards = await look(broker)

    assert (len(held), len(beside.letters), beside.more, beside.others) == (5, 0, 0, 1)
    assert len(afterwards.letters) == 5
    assert afterwards.by_reason() == {"missing-associate": 5}


def test_without_a_queue_or_the_right_to_read_it_the_error_says_so(run, url, rabbitmq, vhost, monkeypatch):
    monkeypatch.setenv("CONFIGCACHE_BROKER__URL", vhost)
    code, _, err = run("list")
    assert code == 1
    assert "no queue 'clear-configuration-cache.v1.dead-letter'" in err[0]

    with user(rabbitmq, url, Permissions("", "", "")) as blind:
        monkeypatch.setenv("CONFIGCACHE_BROKER__URL", blind)
        code, _, err = run("list")
    assert code == 1
    assert "access" in err[0]


# --- what nobody can read ---------------------------------------------------------------------------------------------


def test_letters_with_undecodable_properties_are_listed_and_shown_and_break_nothing(run, url):
    rejected(url, *((FOR_42, properties) for properties in UNREADABLE.values()))
    good = planted(url, NO_ASSOCIATE)

    groups = json.loads("\n".join(run("list", "--json", "--letters")[1]))
    code, out, err = run("show", "--limit", "100")

    assert [(group["reason"], group["letters"]) for group in groups["groups"]] == [
        ("unreadable-properties", len(UNREADABLE)),
        ("missing-associate", 1),
    ]
    assert (code, err) == (0, [])
    assert [line for line in out if line.startswith("letter ")] == [
        f"letter {letter['id']}" for letter in groups["letters"]
    ]
    assert f"letter {good[0]}" in out
    assert all(line.isprintable() for line in out)
    assert run("show", groups["letters"][0]["id"])[0] == 0
    assert letters_left(url) == len(UNREADABLE) + 1


def test_letters_that_the_broker_gave_up_have_its_reason(run, url, rabbitmq):
    vhost = url.rpartition("/")[2]
    rabbitmq.ctl("set_policy", "-p", vhost, "limit", "^clear-.*v1$", '{"delivery-limit":1}')

    async def return_twice(channel):
        async with Workbench(url) as bench:
            await bench.publish(FOR_42)
        for _ in range(2):
            message = await eventually(lambda: some_message(channel))
            await channel.basic_reject(message.delivery_tag, requeue=True)

    async def some_message(channel):
        message = await channel.basic_get(COMMAND_QUEUE)
        return message if message.delivery_tag else None

    asyncio.run(on_channel(url, return_twice))
    asyncio.run(eventually(lambda: depth_is(url, DEAD_LETTER_QUEUE, 1)))
    rabbitmq.ctl("clear_policy", "-p", vhost, "limit")

    code, out, _ = run("show")

    assert code == 0
    assert "  reason      delivery_limit" in out
    assert any("dead-lettered by the broker" in line for line in out)
    assert run("replay", "--all")[0] == 0
    assert associates(url) == [42]


def test_a_body_too_long_to_be_kept_is_shown_by_its_size_and_never_taken(run, url):
    rejected(url, (b"x" * 2_000_000, Basic.Properties(message_id="long", app_id="shop")))

    out = run("show", "long")[1]
    assert "  body, 2,000,000 bytes" in out
    assert run("replay", "--all")[0] == 1
    assert run("export", "--output", "file", "--remove")[0] == 1
    assert letters_left(url) == 1


async def test_letters_that_come_while_too_much_waits_are_passed_over_and_stay(url):
    await plant(url, *((b"x" * 1000, buried(b"")) for _ in range(20)))

    async with LetterBox(
        url, name="test", most=100, timeout_s=10, heartbeat_s=10, max_held_bytes=5000
    ) as box:
        await eventually(lambda: box.passed_over)
        await eventually(lambda: box._received == 20)
        kept = [delivery async for delivery in box]

    assert 0 < len(kept) < 5
    assert len(kept) + box.passed_over == 20
    assert (await look(settings_of(url))).looked_at == 20


# --- show -------------------------------------------------------------------------------------------------------------


def test_show_tells_everything_about_a_letter_and_what_can_be_done(run, url):
    (message_id,) = planted(
        url,
        (
            NO_ASSOCIATE + b"\n\x1b[31m",
            {"detail": "whose rows?", "app_id": "shop", "headers": {"published-at": NOW_MS, "tenant": [1]}},
        ),
    )

    code, out, _ = run("show", message_id)

    assert code == 0
    assert out[0] == f"letter {message_id}"
    for line in [
        "  reason      missing-associate",
        "  detail      whose rows?",
        "  producer    shop",
        "    tenant                [1]",
        '    {"Application":"WebClient","Instance":"Web"}',
        "    \\x1b[31m",
    ]:
        assert line in out
    assert any("refused as it is: invalid-json" in line for line in out)
    assert any("--set AssociateId=ID" in line for line in out)


def test_show_names_the_letters_that_are_not_there(run, url):
    planted(url, NO_ASSOCIATE)

    code, out, err = run("show", "nowhere")

    assert (code, out) == (1, [])
    assert "not found: nowhere" in err[0]


def test_show_shows_all_that_are_named_and_tells_when_others_were_not_looked_at(run, url):
    ids = planted(url, *[NO_ASSOCIATE] * 12)

    code, out, err = run("show", *ids)

    assert (code, err) == (0, [])
    assert [line.split()[1] for line in out if line.startswith("letter ")] == ids
    assert run("show", "--reason", "invalid-json", "--look", "2")[1] == [
        "no such dead letters; 10 more in the queue were not looked at; --look N looks at more"
    ]


# --- replay -----------------------------------------------------------------------------------------------------------


def test_replay_publishes_what_is_meant_and_takes_it_out(run, url):
    one, *_ = planted(url, FOR_42, (FOR_ALL, {"app_id": "shop"}), (FOR_ALL, {"app_id": "other"}))

    assert run("replay", one)[1] == [
        f"replayed {one}: clear WebClient / Web for associate 42",
        "1 letter replayed, 0 refused",
    ]
    assert [message.body for message in commands_in(url)] == [FOR_42]
    assert run("replay", "--producer", "shop")[0] == 0
    (command,) = commands_in(url)
    assert (command.app_id, command.headers["replayed"]) == ("shop", 1)
    assert command.message_id
    assert run("replay", "--all")[0] == 0
    assert letters_left(url) == 0


def test_replay_refuses_what_would_come_back_and_says_why(run, url):
    bad, _ = planted(url, NO_ASSOCIATE, FOR_42)

    code, out, err = run("replay", "--all")

    assert code == 1
    assert out[0].startswith(f"refused {bad}: missing-associate: ")
    assert out[-1] == "1 letter replayed, 1 refused"
    assert err == ["configcache dead-letters: 1 letter refused, and left in the dead letters"]
    assert (letters_left(url), associates(url)) == (1, [42])


def test_replay_mends_the_body_after_a_dry_run_that_changes_nothing(run, url):
    (message_id,) = planted(url, b'{"Application":"WebClient","Instance":"Web","ForAllAssociate":true}')
    mending = ("--unset", "ForAllAssociate", "--set", "ForAllAssociates=true")

    assert run("replay", message_id, *mending, "--dry-run")[1] == [
        f"would replay {message_id}: clear WebClient / Web for all associates",
        "1 letter would be replayed, 0 refused",
    ]
    assert (letters_left(url), commands_in(url)) == (1, [])
    assert run("replay", message_id, *mending)[0] == 0
    assert [message.body for message in commands_in(url)] == [FOR_ALL]


def test_a_letter_that_came_back_three_times_is_not_replayed_again_by_mistake(run, url):
    planted(url, (FOR_42, {"headers": {"replayed": 3}}))

    assert run("replay", "--all")[0] == 1
    assert run("replay", "--all", "--max-replays", "4")[0] == 0
    assert [message.headers["replayed"] for message in commands_in(url)] == [4]


def test_letters_with_unreadable_properties_are_replayed_as_commands(run, url):
    rejected(url, *((FOR_42, properties) for properties in UNREADABLE.values()))

    assert run("replay", "--all")[0] == 1
    assert run("replay", "--all", "--as-command")[0] == 0
    assert (letters_left(url), associates(url)) == (0, [42] * len(UNREADABLE))


def test_more_letters_are_replayed_than_are_held_at_a_time(run, url):
    planted(url, *bodies_for(range(1, 31)))

    code, out, _ = run("replay", "--all", "--look", "4", "--rate", "10000")

    assert (code, out[-1]) == (0, "30 letters replayed, 0 refused")
    assert sorted(associates(url)) == list(range(1, 31))


def test_a_command_that_cannot_be_routed_leaves_its_letter(run, url):
    planted(url, FOR_42)
    asyncio.run(
        on_channel(
            url, lambda channel: channel.queue_unbind(COMMAND_QUEUE, COMMAND_EXCHANGE, COMMAND_ROUTING_KEY)
        )
    )
    try:
        code, _, err = run("replay", "--all")
    finally:
        asyncio.run(on_connection(url, lambda connection: declare(connection, may_declare=True)))

    assert code == 1
    assert "no queue is bound to exchange 'configuration'" in err[0]
    assert letters_left(url) == 1


def test_the_rights_of_an_operator_are_enough(run, url, rabbitmq, monkeypatch):
    planted(url, FOR_42, NO_ASSOCIATE, NO_ASSOCIATE)

    with user(rabbitmq, url, OPERATOR_PERMISSIONS) as operator:
        monkeypatch.setenv("CONFIGCACHE_BROKER__URL", operator)
        assert run("list")[0] == 0
        assert run("replay", "--all")[1][-1] == "1 letter replayed, 2 refused"
        assert run("export", "--output", "file", "--remove")[0] == 0
        assert run("import", "file")[0] == 0
        assert run("discard", "--all", "--yes") == (0, ["2 letters discarded"], [])


# --- replay, interrupted ----------------------------------------------------------------------------------------------


async def replay(url, publish=None, report=lambda outcome: None):
    """Replay all letters at full speed, over *url*; *publish* may be put before the real one."""
    broker = settings_of(url)
    async with open_box(broker, most=1000) as box, open_post(broker) as post:
        around = post.publish if publish is None else lambda *args, **more: publish(post, *args, **more)
        await Replaying(box, around, report, rate_per_s=1e6).run()


async def associates_left(url):
    async with open_box(settings_of(url), most=1000) as box:
        return {decode(letter.body).associate_id async for letter in read(box, EVERYTHING)}


async def test_a_line_cut_between_confirm_and_ack_doubles_one_and_loses_none(url):
    await plant(url, *((body, buried(body)) for body in bodies_for(range(1, 11))))
    done = []

    async with Proxy(url) as line:

        async def publish_then_cut(post, *args, **more):
            await post.publish(*args, **more)
            if len(done) == 3:
                line.cut()

        with pytest.raises(BrokerUnavailable):
            await replay(line.url, publish_then_cut, done.append)
    await eventually(lambda: depth_is(url, DEAD_LETTER_QUEUE, 7))
    left = await associates_left(url)
    await replay(url)

    replayed = [decode(message.body).associate_id for message in await published(url)]
    assert left == {4, 5, 6, 7, 8, 9, 10}
    assert sorted(replayed) == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10]


async def test_lines_cut_anywhere_double_one_letter_each_at_most_and_lose_none(url):
    everybody = set(range(1, 61))
    await plant(url, *((body, buried(body)) for body in bodies_for(everybody)))
    cuts = 0

    async with Proxy(url) as line:
        for passed_bytes in (25_000, 18_001, 14_002, 9_003):
            cutting = asyncio.create_task(line.cut_after(passed_bytes))
            try:
                await replay(line.url)
            except BrokerUnavailable:
                cuts += 1
            cutting.cancel()
            await asyncio.gather(cutting, return_exceptions=True)
    await eventually(lambda: all_back(url))
    await replay(url)

    replayed = [decode(message.body).associate_id for message in await published(url)]
    assert cuts
    assert set(replayed) == everybody
    assert len(replayed) - len(everybody) <= cuts


async def all_back(url):
    """Whether nobody holds letters any more."""

    async def consumers(channel):
        return (await channel.queue_declare(DEAD_LETTER_QUEUE, passive=True)).consumer_count

    return await on_channel(url, consumers) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ended_in_the_middle_doubles_one_at_most_and_loses_none(url, environment, number):
    everybody = set(range(1, 101))
    planted(url, *bodies_for(everybody))
    command = [sys.executable, "-m", "configcache_worker", "dead-letters", "replay", "--all", "--rate", "100"]

    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for _ in range(10):
            assert process.stdout.readline().startswith("replayed ")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    asyncio.run(eventually(lambda: all_back(url)))
    left = asyncio.run(associates_left(url))

    replayed = associates(url)
    assert len(replayed) == len(set(replayed))
    assert left | set(replayed) == everybody
    assert len(left & set(replayed)) <= 1
    assert left
    if number == signal.SIGTERM:
        assert process.returncode == 1
        assert not left & set(replayed)
        assert "letters replayed, 0 refused" in out
        assert "stopped; the other letters are where they were" in err


# --- discard ----------------------------------------------------------------------------------------------------------


def test_discard_takes_away_what_is_meant_and_nothing_else(run, url):
    planted(url, (b"{", {"reason": Reason.INVALID_JSON}), NO_ASSOCIATE, NO_ASSOCIATE)

    assert run("discard", "--reason", "missing-associate", "--limit", "1", "--yes") == (
        0,
        ["1 letter discarded"],
        [],
    )
    assert letters_left(url) == 2
    assert run("discard", "nowhere", "--yes")[0] == 1
    assert run("discard", "--all", "--yes")[1] == ["2 letters discarded"]
    assert run("discard", "--all", "--yes")[1] == ["no such dead letters"]


def test_discard_says_what_it_has_not_looked_at(run, url, monkeypatch):
    planted(url, *[NO_ASSOCIATE] * 3)

    assert run("discard", "--reason", "invalid-json", "--yes", "--look", "2")[1] == [
        "no such dead letters; 1 more in the queue were not looked at; --look N looks at more"
    ]
    assert run("discard", "--all", "--yes", "--look", "2")[1] == [
        "2 letters discarded; 1 more in the queue were not looked at; --look N looks at more"
    ]
    assert letters_left(url) == 1


def test_discard_does_not_go_on_where_nobody_can_be_asked(run, url, monkeypatch):
    planted(url, NO_ASSOCIATE)
    monkeypatch.setattr(sys, "stdin", None)

    code, _, err = run("discard", "--all")

    assert code == 2
    assert "say --yes" in err[0]
    assert letters_left(url) == 1


@pytest.mark.parametrize(("answer", "left"), [(b"yes\n", 0), (b"y\n", 1), (b"\n", 1)])
def test_discard_asks_on_a_terminal_and_takes_nothing_but_yes_for_a_yes(run, url, monkeypatch, answer, left):
    planted(url, NO_ASSOCIATE)
    keyboard, terminal = open_terminal()
    with os.fdopen(keyboard, "wb", buffering=0) as typing, os.fdopen(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        typing.write(answer)

        code, out, _ = run("discard", "--all")

    assert code == 0
    assert "Discard 1 letter for ever? Type yes:" in out
    assert any(line.startswith("missing-associate") for line in out)
    assert letters_left(url) == left


# --- export and import ------------------------------------------------------------------------------------------------


async def everything_in(url):
    """Bodies and encoded properties of the dead letters."""
    async with open_box(settings_of(url), most=1000) as box:
        return sorted(
            [(letter.body, letter.headers, letter.id) async for letter in read(box, EVERYTHING)], key=str
        )


def without_counters(letters):
    return [
        (body, {k: v for k, v in headers.items() if k != "x-delivery-count"}, id_)
        for body, headers, id_ in letters
    ]


def test_what_was_exported_and_removed_comes_back_as_it_was(run, url, tmp_path):
    planted(
        url,
        bytes(range(256)),
        (FOR_42, {"headers": {"nested": {"a": [1, None, 1.5, True]}, "replayed": 2}, "priority": 7}),
    )
    before = asyncio.run(everything_in(url))

    assert run("export", "--output", "old.ndjson", "--remove")[1] == [
        "2 letters written to old.ndjson, and taken out of the queue"
    ]
    assert letters_left(url) == 0
    assert run("import", "old.ndjson") == (0, ["2 letters imported"], [])

    assert without_counters(asyncio.run(everything_in(url))) == without_counters(before)


def test_letters_of_the_broker_are_still_known_after_an_import(run, url):
    rejected(url, *((FOR_42, properties) for properties in UNREADABLE.values()))
    before = json.loads("\n".join(run("list", "--json")[1]))["groups"]

    run("export", "--output", "file", "--remove")
    run("import", "file")

    after = json.loads("\n".join(run("list", "--json")[1]))["groups"]
    assert [(group["reason"], group["letters"]) for group in after] == [
        (group["reason"], group["letters"]) for group in before
    ]
    assert run("replay", "--all", "--as-command")[0] == 0


def test_export_leaves_the_letters_there_and_overwrites_nothing(run, url, tmp_path):
    one, _ = planted(url, FOR_42, NO_ASSOCIATE)
    (tmp_path / "there").write_text("precious")

    code, out, _ = run("export", one)
    assert (code, [json.loads(line)["id"] for line in out]) == (0, [one])
    code, _, err = run("export", "--output", "there")
    assert (code, "exists already" in err[0]) == (2, True)
    assert run("export", "--remove")[0] == 2
    assert (tmp_path / "there").read_text() == "precious"
    assert letters_left(url) == 2


def test_a_file_with_a_line_that_is_no_letter_brings_back_nothing(run, url, tmp_path):
    planted(url, FOR_42)
    run("export", "--output", "file", "--remove")
    with (tmp_path / "file").open("a") as file:
        file.write("\n{}\n")

    code, out, err = run("import", "file")

    assert (code, out) == (1, [])
    assert "line 3 has no" in err[0]
    assert "nothing was imported" in err[0]
    assert letters_left(url) == 0


def test_letters_are_imported_from_a_pipe(run, url, tmp_path):
    planted(url, FOR_42)
    run("export", "--output", "file", "--remove")
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb") as pipe:
        pipe.write((tmp_path / "file").read_bytes())
        pipe.close()

        assert run("import", f"/dev/fd/{reading}") == (0, ["1 letter imported"], [])

    assert letters_left(url) == 1


class InterruptedAfterOne(io.BytesIO):
    """A file whose reader is cancelled at the second line."""

    def readline(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            asyncio.current_task().cancel()
        return super().readline(size)


async def test_an_import_that_is_interrupted_says_how_many_are_in(url):
    await plant(url, (FOR_42, buried(FOR_42)))
    async with open_box(settings_of(url), most=1) as box:
        lines = [to_line(letter) + "\n" async for letter in read(box, EVERYTHING)] * 2

    with pytest.raises(CommandFailed, match="1 letter imported, then: interrupted; import the lines behind"):
        await asyncio.create_task(
            importing._import(settings_of(url), InterruptedAfterOne("".join(lines).encode()))
        )


async def test_an_export_that_is_cut_says_what_is_written_and_what_is_out(url, tmp_path):
    await plant(url, *((body, buried(body)) for body in bodies_for(range(1, 4))))
    output = str(tmp_path / "file")

    async with Proxy(url) as line, open_box(settings_of(line.url), most=1000) as box:
        with (tmp_path / "file").open("w") as file:
            exported = await export(box, EVERYTHING, lambda text: print(text, file=file))
        await box.take_out(exported.written.pop(0))
        line.cut()
        with pytest.raises(
            CommandFailed, match=r"2 letters written to .*file, and 0 taken out of the queue, then:"
        ):
            await exporting._remove(box, exported, output)

    await eventually(lambda: depth_is(url, DEAD_LETTER_QUEUE, 2))


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay"],
        ["discard", "--yes"],
        ["replay", "--all", "--reason", "x"],
        ["replay", "--all", "--set", "AssociateId=x"],
        ["replay", "--all", "--set", "AssociateId=1", "--unset", "AssociateId"],
        ["replay", "--all", "--rate", "0"],
        ["list", "--look", "65536"],
        ["replay", "an-id", "--limit", "1"],
        ["import", "nowhere"],
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(run, url, arguments):
    code, _, err = run(*arguments)

    assert code == 2
    assert err
