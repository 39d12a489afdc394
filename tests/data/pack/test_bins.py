"""Every item in one bin, none over-full, and never more bins than the textbook needs."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxsft.data.pack import bins

CASES = st.integers(1, 60).flatmap(
    lambda capacity: st.tuples(st.just(capacity), st.lists(st.integers(1, capacity), max_size=80))
)


def textbook(sizes, capacity):
    """Best fit decreasing, item by item; returns the room left in each bin."""
    room = []
    for size in sorted(sizes, reverse=True):
        fitting = [i for i, left in enumerate(room) if left >= size]
        if fitting:
            room[min(fitting, key=lambda i: room[i])] -= size
        else:
            room.append(capacity - size)
    return sorted(room)


def loads(way, sizes, capacity):
    falling = np.sort(np.array(sizes, int))[::-1]
    bin_of, num_bins = way(falling, capacity)
    filled = np.bincount(bin_of, weights=falling, minlength=num_bins)
    assert len(filled) == num_bins and (filled > 0).all() and (filled <= capacity).all()
    return filled


@given(CASES)
def test_best_fit_decreasing_is_the_textbooks(case):
    capacity, sizes = case
    room = capacity - loads(bins.best_fit_decreasing, sizes, capacity)
    assert sorted(room.tolist()) == textbook(sizes, capacity)


@given(CASES)
@example((280, [100, 60] + [8] * 20 + [7] * 8))  # more than fit are left where a search gives up
def test_never_more_bins_than_the_textbook(case):
    capacity, sizes = case
    loads(bins.minimum_slack, sizes, capacity)
    assert len(loads(bins.pack, sizes, capacity)) <= len(textbook(sizes, capacity))


@given(CASES)
@example((10, [6, 3, 2, 2]))  # what fits first leaves one
def test_each_bin_is_as_full_as_its_largest_item_allows(case):
    """Of few items, among which the search leaves out nothing."""
    capacity, sizes = case[0], sorted(case[1][:7], reverse=True)
    bin_of, num_bins = bins.minimum_slack(np.array(sizes, int), capacity)
    for number in range(num_bins):
        largest, *others = [sizes[i] for i in np.flatnonzero(bin_of >= number)]
        sums = {0}
        for size in others:
            sums |= {total + size for total in sums}
        fullest = max(total for total in sums if total <= capacity - largest)
        held = [sizes[i] for i in np.flatnonzero(bin_of == number)]
        assert held[0] == largest and sum(held) == largest + fullest


@given(st.lists(st.integers(1, 99), min_size=1, max_size=40), st.integers(0, 19))
@example([1000, 100] + [8] * 60, 19)  # more items than a search goes deep
@example([1000, 100] + [8] * 30 + [5] * 40, 19)
@example([100, 60] + [8] * 20 + [7] * 8, 19)
@example([20_000, 2000] + [2] * 4000, 19)  # nor may it go as deep as there are items
def test_items_that_fit_one_bin_share_it(sizes, slack):
    for way in (bins.minimum_slack, bins.best_fit_decreasing, bins.pack):
        assert len(loads(way, sizes, sum(sizes) + slack)) == 1


def test_lengths_that_the_textbook_fits_badly_fill_their_bins():
    """About five of these fit: best fit leaves more than two per cent empty."""
    sizes = np.random.default_rng(0).normal(210, 60, 6000).astype(int).clip(60, 500)
    least = -(-int(sizes.sum()) // 1024)
    assert len(textbook(sizes[:600], 1024)) > sizes[:600].sum() / 1024 * 1.01
    assert len(loads(bins.pack, sizes, 1024)) <= least * 1.005


@pytest.mark.parametrize(
    ("sizes", "capacity"),
    [
        ([1] * 5000, 8192),
        ([4000] + [1] * 9000, 8192),
        ([5000] + [3] * 9000, 8192),
        ([7] * 3000 + [3] * 3000, 100_003),
    ],
)
def test_thousands_of_items_in_one_bin(sizes, capacity):
    assert len(loads(bins.pack, sizes, capacity)) == -(-sum(sizes) // capacity)


@pytest.fixture
def tries(monkeypatch):
    """The search of each try."""
    found, descend = [], bins._Search._descend
    monkeypatch.setattr(
        bins._Search, "_descend", lambda self, *args: found.append(self) or descend(self, *args)
    )
    return found


def test_a_search_ends_with_its_tries_or_where_all_are_spent(tries, monkeypatch):
    monkeypatch.setattr(bins, "_NODES", 700)
    monkeypatch.setattr(bins, "_ALL_NODES", 1000)
    monkeypatch.setattr(bins, "_FEW_NODES", 20)
    loads(bins.minimum_slack, [*range(100, 180, 2)] * 3, 1001)  # no sum is odd
    first, second, *others = Counter(map(id, tries)).values()
    for made, allowed in ((first, 700), (second, 300), (max(others), 20)):
        assert allowed <= made <= allowed + bins._DEPTH  # which the last try still leads to


def test_a_search_ends_with_a_full_bin(tries):
    loads(bins.minimum_slack, [55, 25, 20] * 10, 100)
    assert len(tries) == 2


def test_a_search_for_bins_that_nothing_fills_comes_to_an_end():
    """Even sizes in an odd capacity: without a bound the search tries millions of ways a bin."""
    sizes, begin = [*range(100, 180, 2)] * 3, time.perf_counter()
    assert len(loads(bins.minimum_slack, sizes, 1001)) <= len(textbook(sizes, 1001))
    assert time.perf_counter() - begin < 10  # 0.1 s alone; the machine may be busy


def test_a_bin_keeps_its_first_items_and_new_ones_take_the_others():
    found, count = bins.of_at_most(2, np.array([0, 1, 0, 0, 1, 0, 0]), 2)
    assert found.tolist() == [0, 1, 0, 2, 1, 2, 3] and count == 4


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 5))
def test_no_bin_holds_more_than_the_most_and_items_that_part_were_together(given_bins, most):
    before = np.array(given_bins, int)
    after, count = bins.of_at_most(most, before, 6)
    assert np.bincount(after, minlength=1).max() <= most
    assert after.max(initial=5) + 1 == count
    for number in np.unique(after):
        assert len(set(before[after == number])) == 1
    kept = after < 6
    assert (after[kept] == before[kept]).all()
