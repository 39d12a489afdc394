"""What adapters add, beside the product itself; and those that add nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft.model.adapter import Adapted
from jaxsft.report import adapter_change, weight_change
from jaxsft.report.adapter_change import AdapterChange
from jaxsft.report.page import moved
from jaxsft.report.run_read import RunFiles
from jaxsft.report.summary import Summary
from jaxsft.report.weight_change import LeafChange

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def measured(held, layers):
    base = tiny.host_params()
    base["layers"]["attention"]["q_DNH"] = held.weight
    together = tiny.host_params()
    together["layers"]["attention"]["q_DNH"] = held
    leaves = weight_change.by_path(
        *(jax.tree.map(jnp.asarray, tree) for tree in (base, together)), tiny.SETTINGS
    )
    (found,) = adapter_change.measured(together, leaves)
    assert found.name == "attention.q_DNH" and found.layers == layers
    return found


def test_the_shares_are_those_of_the_product_and_a_layer_at_zero_is_told():
    weight, a, b = normal(2, 32, 4, 8), normal(2, 32, 3), normal(2, 3, 4, 8).at[1].set(0)
    found = measured(Adapted(weight, a, b, jnp.asarray([0.5, 2.0])), [0, 1])
    change = 0.5 * np.tensordot(np.asarray(a[0]), np.asarray(b[0]), axes=1)
    expected = np.linalg.norm(change) / np.linalg.norm(weight[0])
    assert found.shares == [pytest.approx(expected, rel=1e-5), 0.0]
    assert found.still == [1] and found.rank == 3


def test_adapters_that_began_apart_from_zero_are_measured_from_there():
    weight, a, b = normal(2, 32, 4, 8), normal(2, 32, 3), normal(2, 3, 4, 8)
    scale, before = jnp.ones(2), (a.at[0].add(1e-3), b.at[0].add(1e-3))
    found = measured(Adapted(weight, a, b, scale, None, *before), [0, 1])
    change = np.tensordot(np.float64(a[0]), np.float64(b[0]), axes=1)
    change -= np.tensordot(np.float64(before[0][0]), np.float64(before[1][0]), axes=1)
    expected = np.linalg.norm(change) / np.linalg.norm(weight[0])
    assert found.shares == [pytest.approx(expected, rel=1e-3), 0.0]


def test_tiny_factors_do_not_vanish():
    weight, a, b = normal(2, 32, 4, 8), 1e-22 * normal(2, 32, 3), normal(2, 3, 4, 8)
    assert measured(Adapted(weight, a, b, jnp.ones(2)), [0, 1]).still == []


def page_of(*adapters):
    weights = [LeafChange("attention.q_DNH", [0, 1], [1.0, 1.0], [0.1, 0.1])]
    found = moved.moved_of(RunFiles(summary=Summary(weights=weights, adapters=adapters)))
    assert found is not None and found.adapters is not None
    return found.adapters


def test_the_page_says_whether_all_act():
    acting = AdapterChange("attention.q_DNH", 4, [0, 1], [0.01, 0.02])
    shown = page_of(acting)
    assert shown.all_act and shown.words == "All 2 adapters add something to their weights."
    assert shown.rows == [("attention.q_DNH", "4", "2", "1.000% in 0", "2.000% in 1", "")]
    shown = page_of(acting, AdapterChange("mlp.up_DF", 4, [0, 1], [0.0, 0.02]))
    assert not shown.all_act and shown.words.startswith("1 of 4 adapters add nothing")
    assert shown.rows[1][-1] == "layer 0"
