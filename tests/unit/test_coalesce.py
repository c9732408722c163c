"""Coalescing: fewer scopes, the same rows, and every delivery answered."""

from hypothesis import given
from hypothesis import strategies as st

from configcache.wire import COMMAND_PROPERTIES
from configcache_worker.core.coalesce import coalesce, split, tags
from configcache_worker.core.ports import Delivery, Scope


def a_delivery(tag):
    return Delivery(tag, b"", COMMAND_PROPERTIES, False, None, 0, None)


names = st.sampled_from(["Web", "web", "Wéb", "W%"])
scopes = st.builds(Scope, names, names, st.none() | st.integers(1, 4))
orders = st.lists(scopes, max_size=30).map(
    lambda found: [(a_delivery(tag), scope) for tag, scope in enumerate(found, 1)]
)
ROWS = frozenset(
    (application, instance, associate)
    for application in ["Web", "web", "Wéb", "W%"]
    for instance in ["Web", "web", "Wéb", "W%"]
    for associate in range(1, 6)
)


def cleared(rows, scope):
    return {
        row
        for row in rows
        if row[:2] != scope[:2] or (scope.associate_id is not None and row[2] != scope.associate_id)
    }


@given(orders)
def test_coalesced_and_one_by_one_leave_the_same_rows(orders):
    one_by_one, coalesced = set(ROWS), set(ROWS)

    for _, scope in orders:
        one_by_one = cleared(one_by_one, scope)
    for work in coalesce(orders):
        coalesced = cleared(coalesced, work.scope)

    assert coalesced == one_by_one


@given(orders)
def test_every_delivery_is_in_exactly_one_work(orders):
    found = tags(coalesce(orders))

    assert sorted(found) == list(range(1, len(orders) + 1))


@given(orders)
def test_scopes_are_sorted_and_no_two_overlap(orders):
    scopes = [work.scope for work in coalesce(orders)]

    assert scopes == sorted(scopes)
    assert len(set(scopes)) == len(scopes)
    for scope in scopes:
        if scope.associate_id is None:
            assert [other for other in scopes if other[:2] == scope[:2]] == [scope]


def test_a_clear_for_all_absorbs_the_single_ones_and_remembers_who_waits():
    one, everybody = Scope("WebClient", "Web", 42), Scope("WebClient", "Web", None)

    first, second, third = a_delivery(1), a_delivery(2), a_delivery(3)

    (work,) = coalesce([(first, one), (second, everybody), (third, one)])

    assert work.scope == everybody
    assert work.deliveries == [second]
    assert [(absorbed.scope, absorbed.deliveries) for absorbed in work.absorbed] == [(one, [first, third])]


@given(orders)
def test_splitting_again_and_again_ends_at_single_commands_and_loses_no_delivery(orders):
    groups, singles = [coalesce(orders)], []

    while groups:
        group = groups.pop()
        parts = split(group) if group else []
        groups.extend(parts)
        if group and not parts:
            singles.extend(group)

    assert sorted(tags(singles)) == list(range(1, len(orders) + 1))
    assert all(not work.absorbed for work in singles)
    assert len({work.scope for work in singles}) == len(singles) == len({scope for _, scope in orders})
