"""Rows of what is in a message: anything at all."""

import asyncio
import contextlib
import itertools
import random
import struct
from collections import Counter

import pytest

from configcache.topology import DEAD_LETTER_QUEUE
from configcache.wire import ContractError, decode, encode
from tests.chaos.flood import BASE_BYTES, PLAIN_PROPERTIES, Flood, Refused, flood
from tests.chaos.load import command, ready
from tests.raw import short
from tests.waiting import eventually

TOKENS = [
    *(b"null", b"true", b"false", b"NaN", b"-1", b"0", b"42.0", b"1e3", b"9223372036854775808", b"1" * 5_000),
    *(b"{", b"}", b"[", b'"', b":", b",", b"[" * 3_000, b'{"a":' * 500, b"\xef\xbb\xbf", b"\xff", b"\x00"),
    *(b"\\ud800", b"\\u0041", b"\\", b'"Application"', b'"Instance":"Web",', b'"AssociateId":', b" ", b"\n"),
]


@pytest.mark.in_suite
@pytest.mark.timeout(240)
@pytest.mark.row(21, "100,000 random and mutated bodies and property frames")
async def test_whatever_is_in_a_message_it_is_applied_or_dead_lettered(
    load, system, start_worker, scale, rng
):
    bodies = [mutated_body(rng) for _ in range(scale(92_000, in_suite=2_000))]
    wanted, unwanted = sorted_out(bodies)
    numbers = range(10_001, 10_001 + scale(8_000, in_suite=200))
    await load.fill([*range(1, 201), *numbers])
    worker = start_worker(system.settings)
    await ready(worker)

    await asyncio.to_thread(flood, system.settings.broker.url, [(body, PLAIN_PROPERTIES) for body in bodies])
    shares = [numbers[share::4] for share in range(4)]
    accepted = await asyncio.gather(
        *(
            asyncio.to_thread(
                publish_accepted, system.settings.broker.url, share, random.Random(rng.random())
            )
            for share in shares
        )
    )

    sent = set(itertools.chain(*accepted))
    assert len(sent) > len(numbers) // 10, "some property frames are such that the broker takes them"
    await eventually(lambda: is_at_rest(load, wanted, unwanted), timeout_s=150)
    assert worker.peak_bytes() < BASE_BYTES + system.settings.worker.max_held_bytes
    assert await asyncio.to_thread(worker.terminate) == 0
    assert await load.depth() == 0
    letters = await load.dead_letters()
    assert Counter((each.body, each.reason) for each in letters if not is_damaged(each)) == unwanted
    # Each of the damaged ones was applied, or is in the dead letters, and none is in both.
    buried = {decode(each.body).associate_id for each in letters if is_damaged(each)}
    applied = sent - await load.left()
    assert applied | buried == sent
    assert not applied & buried


async def is_at_rest(load, wanted, unwanted):
    if await load.depth() or await load.depth(DEAD_LETTER_QUEUE) < unwanted.total():
        return False
    return not await load.left() & wanted


def sorted_out(bodies):
    """Which commands are in *bodies*, and what has to come to the dead letters with which reason."""
    wanted, unwanted = set(), Counter()
    for body in bodies:
        try:
            found = decode(body)
            if found == command(found.associate_id or 1):  # or it is somebody else's by now
                wanted.add(found.associate_id)
        except ContractError as error:
            unwanted[body, error.reason.value] += 1
    return wanted, unwanted


def mutated_body(rng):
    body = bytearray(encode(command(rng.randrange(1, 201))))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        place = rng.randrange(len(body) + 1)
        kind = rng.randrange(5)
        if kind == 0 and body:
            body[place % len(body)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del body[place:]
        elif kind == 2:
            body[place:place] = rng.choice(TOKENS)
        elif kind == 3:
            end = rng.randrange(len(body) + 1)
            body += body[place:end]
        else:
            body[place : place + rng.randrange(20)] = rng.randbytes(rng.randrange(20))
    return bytes(body)


def mutated_properties(rng):
    """The properties of a usual message, somewhat damaged."""
    text = rng.choice([b"application/json", b"text/plain", b"", b"\xff\xfe"])
    table = short(b"published-at") + b"l" + struct.pack(">q", rng.getrandbits(62))
    table += short(b"k") + rng.choice(
        [b"S\0\0\0\1v", b"t\1", b"V", b"F\0\0\0\0", b"T" + b"\xff" * 8, b"x\0\0\0\1\0"]
    )
    encoded = bytearray(short(text) + struct.pack(">I", len(table)) + table + b"\x02" + short(b"id"))
    for _ in range(rng.choice([0, 1, 2])):
        place = rng.randrange(len(encoded))
        encoded[place] ^= 1 << rng.randrange(8)
    flags = rng.choice([0xB080, 0xB080, 0xB080, rng.randrange(0, 0x10000, 2)])
    return struct.pack(">H", flags) + bytes(encoded)


def publish_accepted(url, numbers, rng):
    """Publish the commands *numbers* with damaged properties; give back those that the broker did not refuse to take."""
    accepted, waiting = set(), list(numbers)
    while waiting:
        with Flood(url) as line, contextlib.suppress(Refused):
            while waiting:
                number = waiting.pop()
                line.publish([(encode(command(number)), mutated_properties(rng))])
                accepted.add(number)
    return accepted


def is_damaged(letter):
    """Whether it is one of those whose properties were damaged, and whose body was not."""
    try:
        return decode(letter.body).associate_id > 10_000
    except ContractError:
        return False
