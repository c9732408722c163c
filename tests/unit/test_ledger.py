"""The settlement ledger: each delivery exactly once, and no tag that the broker would not know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configcache_worker.core.ledger import Ledger
from configcache_worker.core.ports import Settlement


class Channel:
    """Settles as RabbitMQ does: a tag that it does not hold closes the channel, inside ``multiple`` too."""

    def __init__(self):
        self.unsettled, self.acked, self.rejected = [], [], []

    def deliver(self, tag):
        self.unsettled.append(tag)

    def apply(self, settlement):
        for tag in settlement.rejects:
            self._hold(tag)
            self.unsettled.remove(tag)
            self.rejected.append(tag)
        if settlement.ack_up_to is not None:
            self._hold(settlement.ack_up_to)
            covered = [tag for tag in self.unsettled if tag <= settlement.ack_up_to]
            self.acked += covered
            self.unsettled = [tag for tag in self.unsettled if tag not in covered]
        for tag in settlement.acks:
            self._hold(tag)
            self.unsettled.remove(tag)
            self.acked.append(tag)

    def _hold(self, tag):
        assert tag in self.unsettled, f"unknown delivery tag {tag}"


@st.composite
def histories(draw):
    """Deliveries interleaved with completions in any order, and takes in between."""
    count = draw(st.integers(0, 25))
    fates = draw(st.lists(st.sampled_from(["done", "refused", "open"]), min_size=count, max_size=count))
    events = draw(st.permutations([("finish", tag) for tag in range(1, count + 1)]))
    takes = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return fates, events, takes


@given(histories())
def test_every_delivery_is_settled_as_reported_for_any_order_of_completions(history):
    fates, events, takes = history
    ledger, channel = Ledger(), Channel()
    for tag in range(1, len(fates) + 1):
        ledger.opened([tag])
        channel.deliver(tag)

    for (_, tag), take in zip(events, takes, strict=True):
        if fates[tag - 1] != "open":
            (ledger.done if fates[tag - 1] == "done" else ledger.refused)([tag])
        if take and (settlement := ledger.take()):
            channel.apply(settlement)
    if settlement := ledger.take():
        channel.apply(settlement)

    by_fate = {
        fate: [tag for tag, f in enumerate(fates, 1) if f == fate] for fate in ("done", "refused", "open")
    }
    assert sorted(channel.acked) == by_fate["done"]
    assert sorted(channel.rejected) == by_fate["refused"]
    assert channel.unsettled == by_fate["open"]
    assert ledger.open_count == len(by_fate["open"])


def ledger_of(count):
    ledger = Ledger()
    for tag in range(1, count + 1):
        ledger.opened([tag])
    return ledger


def test_a_whole_batch_is_one_multiple_ack():
    ledger = ledger_of(1000)

    ledger.done(range(1, 1001))

    assert ledger.take() == Settlement(rejects=[], ack_up_to=1000, acks=[])


def test_tags_above_an_open_one_are_acked_singly_and_not_again_later():
    ledger = ledger_of(4)

    ledger.done([1, 3, 4])
    assert ledger.take() == Settlement(rejects=[], ack_up_to=1, acks=[3, 4])

    ledger.done([2])
    assert ledger.take() == Settlement(rejects=[], ack_up_to=2, acks=[])


def test_nothing_reported_means_nothing_to_tell():
    ledger = ledger_of(3)

    assert ledger.take() is None


def test_settling_a_delivery_twice_is_refused():
    ledger = ledger_of(1)
    ledger.done([1])

    with pytest.raises(KeyError):
        ledger.done([1])
