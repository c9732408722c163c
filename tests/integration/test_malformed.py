"""Whatever is published, the worker neither stops nor reconnects: it ends in the dead letters, beside good commands applied."""

import asyncio
import json

import pytest
from pamqp.commands import Basic

from configcache import ClearConfigurationCache
from configcache_worker.rabbitmq.workbench import Workbench
from tests.letters import HEADERS, UNREADABLE, nested, raw

GOOD = {"Application": "WebClient", "Instance": "Web", "AssociateId": 42}
JSON = json.dumps(GOOD).encode()


def changed(**changes):
    return json.dumps({**GOOD, **changes}).encode()


BODIES = {
    b"": "invalid-json",
    b"{": "invalid-json",
    b"\xef\xbb\xbf" + JSON: "invalid-utf-8",
    b'{"Application": "\xff"}': "invalid-utf-8",
    JSON.decode().encode("utf-16"): "invalid-utf-8",
    b"[]": "not-an-object",
    b"[" * 50_000: "invalid-json",
    JSON + b"x": "invalid-json",
    b'{"Application":"WebClient","Instance":"Web","AssociateId":42,"AssociateId":43}': "duplicate-property",
    b'{"Application":"A","Applicatio\\u006e":"B","Instance":"Web","AssociateId":42}': "duplicate-property",
    changed(ForAllAssociate=True): "unknown-property",
    b'{"Instance":"Web","AssociateId":42}': "missing-application",
    changed(Application=" "): "invalid-application",
    changed(Application="x" * 255): "invalid-application",
    changed(Application=None): "invalid-application",
    b'{"Application":"\\ud800","Instance":"Web","AssociateId":42}': "invalid-application",
    changed(Instance="a\tb"): "invalid-instance",
    b'{"Application":"WebClient","AssociateId":42}': "missing-instance",
    changed(ForAllAssociates="true"): "invalid-for-all-associates",
    changed(AssociateId=0): "invalid-associate-id",
    changed(AssociateId=42.0): "invalid-associate-id",
    changed(AssociateId=2**63): "invalid-associate-id",
    JSON.replace(b"42", b"4" * 5000): "invalid-associate-id",
    changed(AssociateId=None): "missing-associate",
    changed(ForAllAssociates=True): "unexpected-associate",
    b" " * 200_000: "body-too-large",
}

READABLE = {
    "nested tables": raw(HEADERS, nested(20)),
    "a user id of the publisher's own": Basic.Properties(user_id="guest"),
    "an expiration": Basic.Properties(expiration="3600000"),
    "an unusual priority": Basic.Properties(priority=255),
    "headers that look like ours": Basic.Properties(
        headers={"dead-letter-reason": "none", "x-death": "no list"}
    ),
}
WRONG = {
    "another type": (Basic.Properties(message_type="ClearCache"), "wrong-message-type"),
    "another content type": (Basic.Properties(content_type="application/xml"), "unsupported-content-type"),
    "another charset": (
        Basic.Properties(content_type="application/json; charset=latin1"),
        "unsupported-content-type",
    ),
    "compressed": (Basic.Properties(content_encoding="gzip"), "unsupported-content-encoding"),
}


@pytest.fixture
async def undisturbed(system):
    """A system in which good commands are applied throughout, over one and the same session."""
    session = system.worker.sessions.current
    await system.fill([("WebClient", "Web", associate, "Contact") for associate in range(1, 11)])
    yield system
    for associate in range(1, 11):
        await system.publish(ClearConfigurationCache.for_associate("WebClient", "Web", associate))
    await system.settled()
    assert await system.rows() == set()
    assert system.worker.sessions.current is session
    assert not session.has_ended


async def test_every_malformed_body_is_dead_lettered_with_its_reason_and_as_it_was(undisturbed):
    await undisturbed.publish_raw(*BODIES)
    await undisturbed.settled()

    letters = await undisturbed.dead_letters()

    assert {letter.body: letter.reason for letter in letters} == BODIES
    assert len(letters) == len(BODIES)
    assert all(letter.detail and len(letter.detail.encode()) <= 1024 for letter in letters)


@pytest.mark.parametrize("name", UNREADABLE)
async def test_properties_that_cannot_be_read_end_in_the_dead_letters(undisturbed, name):
    await undisturbed.bench.publish(JSON, UNREADABLE[name])
    await undisturbed.settled()

    (letter,) = await undisturbed.dead_letters()

    assert letter.reason == "unreadable-properties"
    assert letter.body == JSON
    assert {row.associate_id for row in await undisturbed.rows()} == set(range(1, 11))


@pytest.mark.parametrize("name", READABLE)
async def test_unusual_properties_do_not_keep_a_good_command_from_being_applied(undisturbed, name):
    await undisturbed.fill([("WebClient", "Web", 42, "Contact")])

    await undisturbed.bench.publish(JSON, READABLE[name])
    await undisturbed.settled()

    assert await undisturbed.dead_letters() == []
    assert 42 not in {row.associate_id for row in await undisturbed.rows()}


@pytest.mark.parametrize("name", READABLE)
async def test_unusual_properties_do_not_keep_poison_from_its_dead_letter(undisturbed, name):
    await undisturbed.bench.publish(b"{", READABLE[name])
    await undisturbed.settled()

    (letter,) = await undisturbed.dead_letters()

    assert (letter.reason, letter.body) == ("invalid-json", b"{")
    assert letter.properties.expiration is None
    assert letter.properties.user_id is None


@pytest.mark.parametrize("name", WRONG)
async def test_properties_that_break_the_contract_name_their_reason(undisturbed, name):
    properties, reason = WRONG[name]

    await undisturbed.bench.publish(JSON, properties)
    await undisturbed.settled()

    (letter,) = await undisturbed.dead_letters()
    assert (letter.reason, letter.body) == (reason, JSON)


async def test_what_is_copied_moved_and_written_on_a_dead_letter(undisturbed):
    properties = Basic.Properties(
        content_type="application/json",
        headers={"tenant": "Cust1", "CC": ["elsewhere"], "attempts": [1, 2]},
        correlation_id="order-7",
        expiration="3600000",
        message_id="the-producers-own",
        user_id="guest",
        app_id="shop",
        priority=3,
    )

    await undisturbed.bench.publish(b"{", properties)
    await undisturbed.settled()

    (letter,) = await undisturbed.dead_letters()
    assert letter.properties.app_id == "shop"
    assert letter.properties.correlation_id == "order-7"
    assert letter.properties.delivery_mode == 2
    assert letter.properties.message_id != "the-producers-own"
    assert letter.headers["tenant"] == "Cust1"
    assert letter.headers["attempts"] == [1, 2]
    assert letter.headers["original-message-id"] == "the-producers-own"
    assert letter.headers["original-user-id"] == "guest"
    assert letter.headers["original-expiration"] == "3600000"
    assert letter.headers["original-exchange"] == "configuration"
    assert letter.headers["original-routing-key"] == "clear-configuration-cache.v1"
    assert letter.headers["dead-letter-reason"] == "invalid-json"
    assert "CC" not in letter.headers


async def test_poison_in_the_name_of_another_user_is_dead_lettered_all_the_same(undisturbed, rabbitmq):
    await asyncio.to_thread(rabbitmq.ctl, "set_user_tags", "guest", "administrator", "impersonator")
    try:
        async with Workbench(undisturbed.settings.broker.url) as bench:  # rights are read when connecting
            await bench.publish(b"{", Basic.Properties(user_id="somebody-else"))
    finally:
        await asyncio.to_thread(rabbitmq.ctl, "set_user_tags", "guest", "administrator")
    await undisturbed.settled()

    (letter,) = await undisturbed.dead_letters()
    assert letter.properties.user_id is None
    assert letter.headers["original-user-id"] == "somebody-else"


async def test_headers_that_leave_no_room_for_a_reason_go_as_they_are(undisturbed):
    properties = Basic.Properties(headers={f"header-{number}": "x" * 1000 for number in range(125)})

    await undisturbed.bench.publish(b"{", properties)
    await undisturbed.settled()

    (letter,) = await undisturbed.dead_letters()
    assert letter.body == b"{"
    assert letter.headers["header-124"] == "x" * 1000


async def test_poison_that_comes_faster_than_it_is_buried_is_buried_once(new_system):
    async with new_system(start_worker=False, worker={"max_held_bytes": 16 * 1024 * 1024}) as system:
        bodies = [str(number).encode() + b" " * 100_000 for number in range(300)]
        await system.publish_raw(*bodies)
        await system.fill([("WebClient", "Web", 42, "Contact")])
        await system.publish_raw(JSON)
        worker = await system.start_worker()
        session = worker.sessions.current

        await system.settled(timeout_s=30)

        assert await system.rows() == set()
        assert sorted(letter.body for letter in await system.dead_letters()) == sorted(bodies)
        assert worker.sessions.current is session


async def test_a_body_of_five_megabytes_is_not_kept_and_harms_nobody(undisturbed):
    await undisturbed.bench.publish(b"x" * 5_000_000)
    await undisturbed.settled()

    (letter,) = await undisturbed.dead_letters()

    assert letter.reason == "unreadable-properties"
    assert undisturbed.worker.pipeline.totals.rejected.total() == 1
