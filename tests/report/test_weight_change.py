"""What moved is found where it moved, and nowhere else."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny

from jaxsft.config import Mesh
from jaxsft.devices import mesh
from jaxsft.model import state
from jaxsft.report import weight_change
from jaxsft.report.weight_change import LeafChange, MovedRows
from tests.model.test_layer_stacks import MOE

TWO_STACKS = dataclasses.replace(
    tiny.SETTINGS, num_layers=5, moe=MOE, dense_layers=(0,), embed_dim=16
)


def params(s=tiny.SETTINGS):
    return jax.tree.map(np.array, tiny.host_params(s))


def measured(base, result, s=tiny.SETTINGS) -> list[LeafChange]:
    return weight_change.measured(*on_device(base, result), s)


def on_device(*trees):
    """With their keys in the order that they have, which jax.tree.map would sort."""
    return [
        {key: on_device(part)[0] for key, part in tree.items()}
        if isinstance(tree, dict)
        else jax.numpy.asarray(tree)
        for tree in trees
    ]


def norm(array) -> float:
    return float(np.linalg.norm(np.asarray(array, np.float64)))


def backwards(tree):
    """The same with the keys of each mapping in another order, as a file may have them."""
    if not isinstance(tree, dict):
        return tree
    return {key: backwards(tree[key]) for key in reversed(tree)}


def by_name(changes) -> dict[str, LeafChange]:
    return {one.name: one for one in changes}


@pytest.mark.parametrize("order", [lambda tree: tree, backwards])
def test_each_leaf_has_its_norms_by_layer(order):
    base, result = order(params()), order(params())
    result["layers"]["attention"]["q_DNH"][1] += 0.5
    result["embedding_VD"][3] *= 2
    found = by_name(measured(base, result))
    q = found.pop("attention.q_DNH")
    before = base["layers"]["attention"]["q_DNH"]
    assert q.layers == [0, 1]
    np.testing.assert_allclose(q.norms, [norm(before[0]), norm(before[1])], rtol=1e-5)
    np.testing.assert_allclose(q.changes, [0, 0.5 * math.sqrt(before[1].size)], rtol=1e-5)
    assert q.relative == pytest.approx(q.changes[1] / norm(before), rel=1e-5)
    table = found.pop("embedding_VD")
    assert table.layers == [] and table.by_layer == [table.relative]
    expected = norm(base["embedding_VD"][3]) / norm(base["embedding_VD"])
    assert table.relative == pytest.approx(expected, rel=1e-5)
    assert all(one.relative == 0 for one in found.values()) and len(found) == 10


def test_layers_of_several_stacks_have_the_numbers_of_the_model():
    base, result = params(TWO_STACKS), params(TWO_STACKS)
    result["layers"]["experts_1"]["attention"]["q_DNH"][2] += 1.0  # the model's layer 3
    changes = measured(base, result, TWO_STACKS)
    of_layers = dict(weight_change.by_layer(changes))
    assert [layer for layer, moved in of_layers.items() if moved] == [3] and len(of_layers) == 5
    (q,) = (one for one in weight_change.by_kind(changes) if one.name == "attention.q_DNH")
    assert q.layers == [0, 1, 2, 3, 4]
    assert [bool(moved) for moved in q.changes] == [False, False, False, True, False]
    sizes = [norm(leaf) for leaf in jax.tree.leaves(base)]
    assert weight_change.overall(changes) == pytest.approx(q.changes[3] / norm(sizes), rel=1e-5)


def test_it_is_the_same_on_a_mesh():
    base, result = params(), params()
    result["layers"]["mlp"]["down_FD"] += 0.01
    over = mesh.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
    _, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
    places = state.shardings(shapes, axes, over)
    there = [jax.tree.map(jax.device_put, tree, places) for tree in (base, result)]
    alone = on_device(base, result)
    pair = (weight_change.measured(*trees, tiny.SETTINGS) for trees in (alone, there))
    for one, two in zip(*pair, strict=True):
        assert one.name == two.name
        np.testing.assert_allclose(one.changes, two.changes, rtol=1e-5)
        np.testing.assert_allclose(one.norms, two.norms, rtol=1e-5)


def test_the_rank_is_that_of_the_change_and_not_of_the_weight():
    rng = np.random.default_rng(0)
    base, result = params(), params()
    q = result["layers"]["attention"]["q_DNH"]
    low = rng.normal(size=(32, 2)) @ rng.normal(size=(2, 32))
    q[1] += 1e-4 * low.reshape(q[1].shape)
    o = result["layers"]["attention"]["o_NHD"]
    o[0] += 1e-3 * np.outer(rng.normal(size=32), rng.normal(size=32)).reshape(o[0].shape)
    found = {
        (one.name, one.layer): one
        for one in weight_change.ranks(*on_device(base, result), tiny.SETTINGS, 2)
    }
    assert found["attention.q_DNH", 1].rank in (1, 2) and found["attention.q_DNH", 1].of == 32
    assert found["attention.o_NHD", 0].rank == 1
    assert found["attention.q_DNH", 0].rank == 0
    assert {layer for _, layer in found} == {0, 1}
    assert not any("norm" in name for name, _ in found)


def test_of_experts_it_is_that_of_the_first():
    base, result = params(TWO_STACKS), params(TWO_STACKS)
    experts = result["layers"]["experts_1"]["moe"]
    (name,) = (name for name in experts if name.startswith("down"))
    experts[name][0, 0] += 1e-3
    experts[name][0, 1] += np.random.default_rng(0).normal(size=experts[name][0, 1].shape)
    found = weight_change.ranks(*on_device(base, result), TWO_STACKS, 5)
    (down,) = (one for one in found if one.name == f"moe.{name}" and one.layer == 1)
    assert (down.rank, down.of) == (1, min(experts[name].shape[2:]))


@pytest.mark.parametrize(("weights", "rank"), [((1, 1, 1, 1), 4), ((4, 1, 0.1, 0.1), 1)])
def test_the_rank_holds_nine_tenths_of_the_energy(weights, rank):
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(64, 4)))[0] for _ in range(2))
    change = 1e-22 * left @ np.diag(weights) @ right.T  # whose square float32 can't hold
    assert weight_change._rank(jax.numpy.asarray(change, "float32")) == rank


def test_rows_that_moved_are_counted():
    base, result = params(), params()
    result["embedding_VD"][[3, 5, 8]] += 1e-6
    result["head_DV"][0, 7] += 1
    assert weight_change.moved_rows(*on_device(base, result)) == [
        MovedRows("embedding_VD", 3, 64),
        MovedRows("head_DV", 1, 64),
    ]
