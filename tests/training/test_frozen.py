"""A frozen parameter: no gradient, no moment, no product for one, not saved, the same bits."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxsft.devices import mesh
from jaxsft.devices.digest import named
from jaxsft.model import state
from jaxsft.plan import cost, hlo
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.training import optim, over_mesh, step
from jaxsft.training.loss_settings import loss_form
from jaxsft.training.over_mesh import TrainStep
from jaxsft.training.schedule import make_schedule
from jaxsft.training.step import TrainState

NAME = "layers.mlp.down_FD"
ROWS, LENGTH = 4, 32


@dataclasses.dataclass(frozen=True)
class Ran:
    recipe: step.Recipe
    matmul_flops: float
    start: TrainState
    after: TrainState
    placement: TrainState


def run_one_step(frozen: frozenset[str]) -> Ran:
    over = mesh.make_mesh(tiny.ONE_DEVICE, jax.devices()[:1])
    graphdef, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
    recipe = step.Recipe(
        graphdef,
        optim.make_optimizer(tiny.OPTIM),
        make_schedule(tiny.OPTIM, 9),
        microbatches=1,
        loss_form=loss_form(tiny.SETTINGS),
        max_grad_norm=None,  # of the norm of all: the others would move differently
        frozen=frozen,
    )
    placement = over_mesh.state_shardings(recipe, shapes, state.shardings(shapes, axes, over), over)
    with jax.set_mesh(over):
        start = step.init_state(recipe, jax.device_put(tiny.host_params(), placement.params))
        rows = tiny.uneven_batch(ROWS, LENGTH)
        batch = jax.device_put(rows, over_mesh.batch_sharding(over))
        compiled = over_mesh.jit_train_step(recipe, placement, over).lower(start, batch).compile()
        after, _ = TrainStep(compiled)(start, batch)
    flops = cost.matmul_flops(hlo.parse(compiled.as_text()))
    return Ran(recipe, flops, start, after, placement)


@pytest.fixture(scope="module")
def whole():
    return run_one_step(frozenset())


@pytest.fixture(scope="module")
def ran():
    return run_one_step(frozenset({NAME}))


def leaf(params):
    return params["layers"]["mlp"]["down_FD"]


def test_it_keeps_its_bits_and_its_memory_while_the_others_learn_as_before(ran, whole):
    assert list(named(ran.start.frozen)) == [NAME]
    assert leaf(ran.after.params) is leaf(ran.start.frozen)  # not donated, not copied
    np.testing.assert_array_equal(leaf(ran.after.params), leaf(tiny.host_params()))
    others, _ = state.split(whole.after.params, ran.recipe.frozen)
    tiny.assert_trees_close(jax.device_get(ran.after.trained), jax.device_get(others))
    assert np.any(leaf(whole.after.params) != leaf(tiny.host_params()))


def test_it_has_neither_gradient_nor_moment(ran):
    batch = tiny.uneven_batch(ROWS, LENGTH)
    _, grads = jax.eval_shape(
        lambda params: step.gradient_sums(ran.recipe, params, batch), ran.start.params
    )
    trained = named(ran.after.trained).keys()
    assert named(grads).keys() == trained == named(ran.start.params).keys() - {NAME}
    adam = ran.after.opt_state[0]
    assert named(adam.mu).keys() == named(adam.nu).keys() == trained


def test_the_compiled_step_forms_no_product_for_its_gradient(ran, whole):
    s = tiny.SETTINGS
    product = 2 * ROWS * LENGTH * s.mlp_dim * s.embed_dim
    assert whole.matmul_flops - ran.matmul_flops == s.num_layers * product


def test_no_checkpoint_holds_it(ran, tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    store.save(1, ran.after.changing, Notes())
    store.wait()
    assert not [name for name in store.notes(1).digests if "down_FD" in name]
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        ran.after.changing,
    )
    restored = TrainState.of(store.restore(1, abstract), ran.start.frozen)
    tiny.assert_trees_equal(restored.params, ran.after.params)
