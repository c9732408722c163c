"""Who guesses must wait, and nobody else has to."""

from __future__ import annotations

import pytest

from configcache_worker.gateway.attempts import Attempts, BackOff, client_of
from configcache_worker.gateway.authentication import Associate
from configcache_worker.gateway.verified import Verified


class Clock:
    def __init__(self):
        self.time_s = 1_000.0

    def __call__(self):
        return self.time_s


@pytest.fixture
def clock():
    return Clock()


def test_after_the_free_failures_each_wait_is_twice_as_long(clock):
    back_off = BackOff(free=3, forget_s=1e9, longest_s=10, now=clock)

    assert [back_off.failed("key") for _ in range(8)] == pytest.approx([0, 0, 1, 2, 4, 8, 10, 10])


def test_a_wait_ends(clock):
    back_off = BackOff(free=1, forget_s=60, longest_s=60, now=clock)
    back_off.failed("key")

    assert back_off.wait_s("key") == 1
    clock.time_s += 1
    assert back_off.wait_s("key") == 0


def test_failures_are_forgotten_with_time(clock):
    back_off = BackOff(free=2, forget_s=60, longest_s=60, now=clock)
    back_off.failed("key")
    clock.time_s += 60

    assert back_off.failed("key") == 0


def test_only_so_many_keys_are_known(clock):
    back_off = BackOff(free=2, forget_s=60, longest_s=60, most=2, now=clock)
    for key in ("first", "second", "third"):
        back_off.failed(key)

    assert back_off.failed("first") == 0
    assert back_off.failed("third") == 1


def test_a_name_is_guessed_from_one_address_at_the_cost_of_that_address_alone(clock):
    attempts = Attempts(on_a_name=2, of_a_client=100, longest_s=60, now=clock)
    attempts.failed("192.0.2.1", "tje0")
    attempts.failed("192.0.2.1", "tje0")

    assert attempts.wait_s("192.0.2.1", "tje0") == 1
    assert attempts.wait_s("192.0.2.1", "other") == 0
    assert attempts.wait_s("192.0.2.2", "tje0") == 0


def test_one_password_tried_on_many_names_is_guessing_too(clock):
    attempts = Attempts(on_a_name=5, of_a_client=100, longest_s=60, now=clock)
    for number in range(100):
        attempts.failed("192.0.2.1", f"user{number}")

    assert attempts.wait_s("192.0.2.1", "any") > 0
    assert attempts.wait_s("192.0.2.2", "any") == 0


def test_a_success_forgives_the_name_and_not_the_address(clock):
    attempts = Attempts(on_a_name=1, of_a_client=2, longest_s=60, now=clock)
    attempts.failed("192.0.2.1", "tje0")
    clock.time_s += 0.1
    attempts.succeeded("192.0.2.1", "tje0")

    assert attempts.wait_s("192.0.2.1", "tje0") == 0
    attempts.failed("192.0.2.1", "other")
    assert attempts.wait_s("192.0.2.1", "third") > 0


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        (None, "unknown"),
    ],
)
def test_a_network_of_ipv6_is_one_client(address, client):
    assert client_of(address) == client


# What was verified


WHO = Associate(42, may_clear_all=False)


def test_a_credential_is_remembered_for_a_while(clock):
    verified = Verified(ttl_s=60, now=clock)
    digest = verified.digest("Basic", "tje0", "Tje0")
    verified.put(digest, WHO, valid_for_s=None)

    assert verified.get(digest) == WHO
    clock.time_s += 60
    assert verified.get(digest) is None


def test_not_longer_than_it_is_valid(clock):
    verified = Verified(ttl_s=60, now=clock)
    digest = verified.digest("SoTicket", "7T:a", "")
    verified.put(digest, WHO, valid_for_s=10)
    clock.time_s += 10

    assert verified.get(digest) is None


def test_nothing_is_remembered_with_no_time_to_live(clock):
    verified = Verified(ttl_s=0, now=clock)
    digest = verified.digest("SoTicket", "7T:a", "")
    verified.put(digest, WHO, valid_for_s=None)

    assert verified.get(digest) is None


def test_only_so_many_are_remembered_and_the_least_used_goes(clock):
    verified = Verified(ttl_s=60, most=2, now=clock)
    first, second, third = (verified.digest("SoTicket", name, "") for name in "abc")
    verified.put(first, WHO, valid_for_s=None)
    verified.put(second, WHO, valid_for_s=None)
    verified.get(first)
    verified.put(third, WHO, valid_for_s=None)

    assert [verified.get(digest) for digest in (first, second, third)] == [WHO, None, WHO]


def test_parts_of_a_credential_cannot_be_shifted_into_each_other():
    verified = Verified(ttl_s=60)

    assert verified.digest("Basic", "ab", "c") != verified.digest("Basic", "a", "bc")
    assert verified.digest("Basic", "ab", "c") == verified.digest("Basic", "ab", "c")


def test_another_process_remembers_by_other_hashes():
    assert Verified(ttl_s=60).digest("Basic", "a", "b") != Verified(ttl_s=60).digest("Basic", "a", "b")
