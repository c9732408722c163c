"""How old a message is, by what its producer says."""

from __future__ import annotations

import time

import pytest
from pamqp import commands
from pamqp.header import ContentHeader

from configcache_worker.rabbitmq.reading import Envelope, age_s, read


def published(at_ms):
    headers = {} if at_ms is None else {"published-at": at_ms}
    header = ContentHeader(properties=commands.Basic.Properties(headers=headers)).marshal()
    return read(1, Envelope(False, b"configuration", b"x", header), b"{}")


@pytest.mark.parametrize(("ago_s", "age"), [(2.5, 2.5), (0.0, 0.0), (-60.0, 0.0), (86_400.0, 86_400.0)])
def test_the_age_is_that_by_our_clock_and_never_below_0(ago_s, age):
    assert age_s(published(int((time.time() - ago_s) * 1000))) == pytest.approx(age, abs=0.5)


@pytest.mark.parametrize("at_ms", [None, 0, 1_700_000_000, 1_700_000_000_000_000, -1], ids=str)
def test_a_time_that_is_missing_or_not_in_milliseconds_gives_no_age(at_ms):
    assert age_s(published(at_ms)) is None


def test_what_was_not_kept_has_no_age():
    assert age_s(published(1)._replace(envelope=None)) is None
