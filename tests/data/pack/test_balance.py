"""The rows of a batch over devices and micro-batches, so that none waits long for another."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.data.pack import balance
from jaxsft.data.pack.balance import RowCost
from jaxsft.training import batch

SHAPES = [(1, 1, 4), (4, 1, 1), (4, 2, 1), (2, 1, 3), (2, 3, 2), (3, 2, 2)]  # devices, A, rows


def costs(count, seed):
    return np.random.default_rng(seed).lognormal(sigma=1.0, size=count)


@pytest.mark.parametrize("devices, microbatches, rows", SHAPES)
def test_every_row_stays_in_the_batch_and_no_device_is_busier_than_before(
    devices, microbatches, rows
):
    for seed in range(20):
        costs_B = costs(devices * microbatches * rows, seed)
        order = balance.balanced(costs_B, devices, microbatches)
        assert sorted(order) == list(range(len(costs_B)))
        before, after = (
            balance.busiest(c, devices, microbatches) for c in (costs_B, costs_B[order])
        )
        assert after <= before
        if devices == 1 or (microbatches, rows) == (1, 1):  # nothing can be won
            assert order.tolist() == list(range(len(costs_B)))


def least(costs_B, devices, microbatches):
    """Of all orders."""
    orders = itertools.permutations(range(len(costs_B)))
    return min(balance.busiest(costs_B[list(o)], devices, microbatches) for o in orders)


@pytest.mark.parametrize(
    "devices, microbatches, rows, near", [(3, 2, 1, 1.0), (2, 1, 3, 1.1), (2, 3, 1, 1.0)]
)
def test_it_is_the_best_order_or_near_it(devices, microbatches, rows, near):
    for seed in range(5):
        costs_B = costs(devices * microbatches * rows, seed)
        order = balance.balanced(costs_B, devices, microbatches)
        found = balance.busiest(costs_B[order], devices, microbatches)
        assert found <= near * least(costs_B, devices, microbatches) * (1 + 1e-9)


def test_the_places_are_those_of_the_step():
    """Two devices, two micro-batches, two rows each: rows 0 to 3 are the first device's."""
    rows_BT = jnp.arange(8)[:, None]
    parts = np.asarray(batch.split_rows(2, rows_BT))[..., 0]
    costs_B = 10.0 ** np.arange(8)
    of_parts = [costs_B[part].reshape(2, 2).sum(axis=1).max() for part in parts]
    assert balance.busiest(costs_B, 2, 2) == sum(of_parts)
    assert parts.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_rows_that_cost_alike_run_at_once():
    """Two long rows on two devices, one micro-batch after the other: 9 + 1, not 9 + 9."""
    costs_B = np.array([9.0, 1.0, 1.0, 9.0])
    assert balance.busiest(costs_B, 2, 2) == 18
    order = balance.balanced(costs_B, 2, 2)
    assert balance.busiest(costs_B[order], 2, 2) == 10


def test_the_cost_of_a_row_is_what_it_holds():
    cost = RowCost(slot=10.0, supervised=100.0, pair={None: 1.0, 2: 1000.0})
    segments = [np.array([3, 1]), np.zeros(0, int), np.array([2])]
    found = cost.of_rows(4, segments, [2, 0, 1])
    assert found.tolist() == [40 + 200 + 7 + 6000, 40, 40 + 100 + 3 + 3000]
