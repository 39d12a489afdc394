"""Sources mixed by weight or count: exact in every epoch, fair over epochs."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsft.config import Source
from jaxsft.data.pack.mixture import MOST_EXAMPLES, members, per_epoch
from jaxsft.errors import DataError


def test_a_weight_is_a_share_of_the_source_and_a_count_is_itself():
    sources = (Source(path="a"), Source(path="b", weight=2.5), Source(path="c", count=7))
    assert per_epoch(sources, [10, 4, 100]) == [10, 10, 7]
    assert per_epoch(sources[:2], [0, 0]) == [0, 0]


@pytest.mark.parametrize(
    ("source", "size", "message"),
    [
        (Source(path="a", weight=0.01), 20, "a: weight=0.01 of 20 examples .* at least 0.05"),
        (Source(path="a", count=3), 0, "a: count=3 of a source without examples"),
    ],
)
def test_a_share_that_is_nothing_is_refused(source, size, message):
    with pytest.raises(DataError, match=message):
        per_epoch((source,), [size])


SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=4)


@given(SIZES, st.integers(0, 5))
def test_no_example_is_seen_again_before_all_are_seen(sizes, seed):
    source_of = np.repeat(np.arange(len(sizes)), [size for size, _ in sizes])
    wanted = [count for _, count in sizes]
    seen: Counter[int] = Counter()
    for epoch in range(4):
        now = members(source_of, wanted, seed, epoch)
        assert np.bincount(source_of[now], minlength=len(wanted)).tolist() == wanted
        seen.update(now.tolist())
        for source in range(len(sizes)):
            times = [seen[i] for i in np.flatnonzero(source_of == source).tolist()]
            assert max(times) - min(times) <= 1


def test_epochs_of_a_part_differ_and_seeds_too():
    source_of = np.zeros(50, int)
    first, second = (members(source_of, [20], 0, epoch).tolist() for epoch in range(2))
    assert not set(first) & set(second)
    assert members(source_of, [20], 1, 0).tolist() != first
    assert members(source_of, [20], 0, 0).tolist() == first


@pytest.mark.parametrize("options", [{"weight": 1e39}, {"count": 10**12}])
def test_more_examples_than_memory_holds_are_refused(options):
    with pytest.raises(DataError, match=r"^a: .* of 5 examples make [149]\d+ in an epoch; at most"):
        per_epoch([Source(path="a", **options)], [5])
    most = Source(path="a", count=MOST_EXAMPLES)
    assert per_epoch([most], [5]) == [MOST_EXAMPLES]


def test_sources_have_orders_of_their_own_and_may_be_empty():
    source_of = np.repeat([0, 1], 50)
    chosen = members(source_of, [20, 20, 0], 0, 3)
    assert chosen[:20].tolist() != (chosen[20:] - 50).tolist()


def test_the_members_are_these_on_every_platform():
    """Written down from the first run, so that a saved data position keeps its meaning."""
    source_of = np.repeat([0, 1, 2], [5, 4, 2])
    found = [members(source_of, [3, 6, 2], 7, epoch).tolist() for epoch in (0, 2)]
    assert found == [[1, 4, 2, 8, 7, 6, 5, 7, 5, 9, 10], [4, 1, 2, 6, 8, 7, 5, 7, 6, 9, 10]]
