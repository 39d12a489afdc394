"""Counted pairs against masks, and counts of batches that add up."""

import numpy as np
import pytest

from jaxsft.data.pack.counts import BatchCounts


def counts(lengths, windows=(None,)):
    return BatchCounts.of_segments(np.asarray(lengths), 8192, windows)


@pytest.mark.parametrize("window", [1, 3, 4, 5, 99])
def test_pairs_of_a_window_are_those_of_its_mask(window):
    lengths = [1, 3, 4, 9]
    masks = [np.tri(n, dtype=bool) & ~np.tri(n, k=-window, dtype=bool) for n in lengths]
    expected = sum(int(mask.sum()) for mask in masks)
    assert counts(lengths, (None, window)).attention_pairs == {
        None: 1 + 6 + 10 + 45,
        window: expected,
    }


def test_counts_add_up():
    total = counts([3, 4], (None, 2)) + counts([5], (None, 2))
    assert total == BatchCounts(12, 16384, {None: 6 + 10 + 15, 2: 5 + 7 + 9}, 3)
