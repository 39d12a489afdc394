"""Every optimizer: the same on each mesh, laid out as its parameters, and after a resume."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.training import optim
from jaxsft.training.optimizer import dotted
from jaxsft.training.optimizers.sides import sides
from jaxsft.training.step import Changing
from tests.training.optimizers import updates

PARAMS = tiny.host_params(updates.MODEL)
MESHES = [
    config.Mesh(fsdp=2, tensor=4),
    config.Mesh(context=2, expert=2, tensor=2, fsdp=1),
]


@pytest.fixture(scope="module")
def one_device():
    """After two updates, by the optimizer's name."""
    made = {}

    def of(name):
        if name not in made:
            optimizer = optim.make_optimizer(updates.optim_config(name))
            made[name] = updates.fresh(optimizer).after(1, 2)
        return made[name]

    return of


@pytest.mark.parametrize("name", updates.NEW)
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_the_mesh_changes_nothing(name, sizes, one_device):
    expected = one_device(name)
    found = updates.fresh(expected.optimizer, sizes).after(1, 2)
    tiny.assert_trees_close(jax.device_get(found.params), jax.device_get(expected.params))

    def compare(actual, wanted):
        if actual.dtype in (np.int8, np.uint8):
            apart = np.abs(actual.astype(int) - wanted)
            assert apart.max() <= 1 and (apart > 0).mean() < 1e-3  # a rounding that dice decide
        else:
            np.testing.assert_allclose(actual, wanted, 1e-5, 1e-5 * np.std(wanted))

    jax.tree.map(compare, *jax.device_get((found.opt_state, expected.opt_state)))


@pytest.mark.parametrize("name", updates.NEW)
def test_the_state_lies_where_its_parameters_lie(name):
    optimizer = optim.make_optimizer(updates.optim_config(name))
    found = updates.fresh(optimizer, config.Mesh(fsdp=2, tensor=4))
    parts = {p.shape: p.sharding.shard_shape(p.shape) for p in jax.tree.leaves(found.params)}
    assert any(shape != part for shape, part in parts.items())
    for leaf in jax.tree.leaves(found.opt_state):
        if leaf.shape in parts:
            assert leaf.sharding.shard_shape(leaf.shape) == parts[leaf.shape]


@pytest.mark.parametrize("name", ["adamw_8bit", "adafactor"])
def test_the_numbers_of_rows_and_columns_lie_where_these_lie(name):
    optimizer = optim.make_optimizer(updates.optim_config(name))
    found = updates.fresh(optimizer, config.Mesh(fsdp=2, tensor=4))
    q = found.opt_state["layers"]["attention"]["q_DNH"]
    q = q if name == "adafactor" else q.squares
    assert q.rows.shape == (2, 32, 1, 1) and q.columns.shape == (2, 1, 4, 8)
    assert q.rows.sharding.shard_shape(q.rows.shape) == (2, 16, 1, 1)
    assert q.columns.sharding.shard_shape(q.columns.shape) == (2, 1, 1, 8)


@pytest.mark.parametrize("name", updates.NEW)
def test_a_resumed_run_is_the_same_bit_for_bit(name, one_device, tmp_path):
    before = one_device(name)
    changing = Changing(jnp.int32(2), before.params, before.opt_state, jnp.int32(0))
    store = CheckpointStore(tmp_path, keep=1)
    store.save(2, changing, Notes())
    store.wait()
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), changing
    )
    restored = store.restore(2, abstract)
    resumed = before.after(3, state_of=(restored.params, restored.opt_state))
    uninterrupted = before.after(3)
    tiny.assert_trees_equal(resumed.params, uninterrupted.params)
    tiny.assert_trees_equal(resumed.opt_state, uninterrupted.opt_state)


@pytest.mark.parametrize("name", updates.NEW)
def test_the_step_on_a_mesh_makes_the_update_of_its_gradient(name):
    asked = dataclasses.replace(updates.optim_config(name), schedule="constant", warmup_steps=0)
    sizes = config.Mesh(data=2, fsdp=2, tensor=2)
    ran = tiny.run_steps(tiny.uneven_batch(), sizes=sizes, optim_config=asked)
    weight, norm = ran.metrics.sums.weight, ran.metrics.grad_norm
    factor = min(1.0, 1.0 / norm) / weight  # max_grad_norm is 1
    grads = jax.tree.map(lambda g: factor * g, ran.grad_sums)
    optimizer, params = optim.make_optimizer(asked), tiny.host_params()
    moves, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    expected = jax.tree.map(lambda p, u: p - asked.peak_lr * np.asarray(u), params, moves)
    tiny.assert_trees_close(ran.state.params, expected, rtol=2e-5)


def test_every_matrix_has_two_sides():
    named = {dotted(path): leaf for path, leaf in jax.tree.leaves_with_path(PARAMS)}
    found = {name: sides(name, leaf.ndim) for name, leaf in named.items()}
    assert found["layers.attention.q_DNH"] == ((1,), (2, 3))
    assert found["layers.attention.o_NHD"] == ((1, 2), (3,))
    assert found["layers.moe.down_EFD"] == ((2,), (3,))
    assert found["layers.moe.router_DE"] == ((1,), (2,))
    assert found["embedding_VD"] == ((0,), (1,))
    vectors = {name for name, pair in found.items() if pair is None}
    assert all("scale" in n or "bias" in n or n.endswith("share_D1") for n in vectors)
    with pytest.raises(AssertionError, match="layers.odd_QX: no sides are known"):
        sides("layers.odd_QX", 3)
