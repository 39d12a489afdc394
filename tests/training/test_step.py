"""The step's laws: how the work is divided changes neither loss, gradient nor parameters."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.data.pack import packing
from jaxsft.devices import mesh
from jaxsft.errors import ConfigError
from jaxsft.model import remat, state
from jaxsft.training import mesh_fit, optim, over_mesh, step
from jaxsft.training.batch import Batch
from jaxsft.training.loss import loss_sums
from jaxsft.training.loss_settings import loss_form
from jaxsft.training.optimizer import dotted
from jaxsft.training.schedule import make_schedule
from jaxsft.training.treatment import decays


@pytest.fixture(scope="module")
def one_device():
    return tiny.run_steps(tiny.uneven_batch())


def assert_same_training(actual, expected):
    tiny.assert_trees_close(actual.metrics.sums, expected.metrics.sums)
    tiny.assert_trees_close(actual.metrics.grad_norm, expected.metrics.grad_norm)
    tiny.assert_trees_close(actual.grad_sums, expected.grad_sums)
    tiny.assert_trees_close(actual.state.params, expected.state.params)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree)))


def test_a_step_is_adamws_of_the_clipped_mean_gradient(one_device):
    """From moments of zero. Source: arXiv:1711.05101, algorithm 2."""
    start, weight = tiny.host_params(), tiny.uneven_batch().weights_BT.sum()
    mean = jax.tree.map(lambda grad: grad / weight, one_device.grad_sums)
    length, longest = norm(mean), tiny.OPTIM.max_grad_norm
    assert length > longest  # or nothing would be clipped
    np.testing.assert_allclose(one_device.metrics.grad_norm, length, rtol=1e-5)

    def moved(path, param, grad):
        clipped = grad * longest / length
        decay = tiny.OPTIM.weight_decay * param if decays(dotted(path)) else 0
        return param - tiny.OPTIM.peak_lr * (clipped / (abs(clipped) + tiny.OPTIM.eps) + decay)

    expected = jax.tree.map_with_path(moved, start, mean)
    tiny.assert_trees_close(one_device.state.params, expected)
    assert one_device.metrics.learning_rate == np.float32(tiny.OPTIM.peak_lr)
    assert one_device.state.step == 1
    assert one_device.state.skipped_steps == one_device.metrics.skipped_steps == 0


def test_gradients_are_those_of_the_summed_loss_by_the_parameters(one_device):
    graphdef, _, _ = state.abstract(tiny.SETTINGS, "float32", "none")

    def nll(params):
        sums = loss_sums(graphdef, params, tiny.uneven_batch(), loss_form(tiny.SETTINGS))
        return sums.nll, sums

    grads, sums = jax.jit(jax.grad(nll, has_aux=True))(tiny.host_params())
    tiny.assert_trees_close(one_device.grad_sums, jax.device_get(grads))
    tiny.assert_trees_close(one_device.metrics.sums, jax.device_get(sums))


def test_a_scale_of_all_weights_changes_nothing(one_device):
    """A batch may weigh less than one token."""
    batch = tiny.uneven_batch()
    scale = np.float32(2.0 ** -np.ceil(np.log2(batch.weights_BT.sum()) + 3))
    light = tiny.run_steps(dataclasses.replace(batch, weights_BT=batch.weights_BT * scale))
    assert 0 < light.metrics.sums.weight < 0.2
    tiny.assert_trees_close(light.state.params, one_device.state.params)
    np.testing.assert_allclose(light.metrics.grad_norm, one_device.metrics.grad_norm, rtol=1e-5)


def test_microbatches_change_nothing(one_device):
    assert_same_training(tiny.run_steps(tiny.uneven_batch(), microbatches=8), one_device)


@pytest.mark.parametrize(
    "sizes",
    [
        config.Mesh(data=2, fsdp=4),
        config.Mesh(fsdp=2, tensor=4),  # more than there are heads of keys
        config.Mesh(data=2, context=2, tensor=2),
        config.Mesh(fsdp=4, expert=2),  # a dense model's batch is split over it too
    ],
    ids=str,
)
def test_mesh_changes_nothing(one_device, sizes):
    assert_same_training(tiny.run_steps(tiny.uneven_batch(), sizes=sizes), one_device)


def test_microbatches_on_a_mesh_change_nothing(one_device):
    both = tiny.run_steps(tiny.uneven_batch(), sizes=config.Mesh(fsdp=4, tensor=2), microbatches=2)
    assert_same_training(both, one_device)


@pytest.mark.parametrize("policy", [name for name in remat.KEPT if name != "none"])
def test_remat_changes_nothing(one_device, policy):
    again = tiny.run_steps(tiny.uneven_batch(), remat=policy)
    tiny.assert_trees_close(again.grad_sums, one_device.grad_sums, rtol=1e-6)
    assert_same_training(again, one_device)


def test_unrolled_layers_change_nothing(one_device):
    assert_same_training(tiny.run_steps(tiny.uneven_batch(), unroll_layers=2), one_device)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters(one_device):
    half = tiny.run_steps(tiny.uneven_batch(), dtype="bfloat16")
    sums, expected = half.metrics.sums, one_device.metrics.sums
    assert sums.nll != expected.nll  # it was another computation
    np.testing.assert_allclose(sums.nll, expected.nll, rtol=1e-2)
    np.testing.assert_allclose(half.metrics.grad_norm, one_device.metrics.grad_norm, rtol=5e-2)
    for leaf in jax.tree.leaves((half.state.params, half.state.opt_state, half.grad_sums)):
        assert leaf.dtype in (np.float32, np.int32)


def test_packing_changes_nothing():
    made = tiny.conversations([5, 9, 20, 3, 14, 11, 27, 7])
    lengths = np.array([len(ids) for ids, _ in made])
    length = 32

    def rows(plan, count):
        numbers = [*range(plan.num_rows), *[packing.PADDING_ROW] * (count - plan.num_rows)]
        return Batch(**packing.build_rows(lambda at: [made[i] for i in at], plan, numbers, length))

    packed_plan = packing.plan_rows(lengths, length, seed=0, epoch=0)
    assert packed_plan.num_rows == 3  # full to the last token, and rows of padding
    # Of one shape, for which the step is compiled already.
    packed = tiny.run_steps(rows(packed_plan, 16))
    alone = tiny.run_steps(rows(packing.one_per_row(lengths), 16))
    assert_same_training(packed, alone)


def test_denominator_is_the_weight_of_all_targets(one_device):
    weights = tiny.uneven_batch().weights_BT
    assert one_device.metrics.sums.weight == weights.sum()
    assert one_device.metrics.sums.supervised_tokens == (weights > 0).sum()


def test_empty_microbatch_counts_for_nothing():
    batch = tiny.uneven_batch()
    batch.weights_BT[::8] = 0  # micro-batch 0 of 8
    whole = tiny.run_steps(batch)
    assert_same_training(tiny.run_steps(batch, microbatches=8), whole)
    assert np.isfinite(whole.metrics.sums.nll)


@pytest.mark.parametrize("spoil", ["no target", "nan parameter", "inf parameter"])
def test_unusable_step_leaves_the_state_bit_for_bit(spoil):
    batch, params = tiny.uneven_batch(), tiny.host_params()
    if spoil == "no target":
        batch = dataclasses.replace(batch, weights_BT=np.zeros_like(batch.weights_BT))
    else:
        value = np.nan if spoil.startswith("nan") else np.inf
        params["head_DV"] = params["head_DV"].copy()
        params["head_DV"][3, 5] = value
    result = tiny.run_steps(batch, params=params)
    tiny.assert_trees_equal(result.state.params, params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(result.state.opt_state))
    assert result.state.skipped_steps == result.metrics.skipped_steps == 1
    assert result.state.step == 1
    if spoil == "no target":
        assert result.metrics.grad_norm == 0


@pytest.mark.parametrize("longest", [1.0, None])
@pytest.mark.parametrize("length", [0.0, 1e-7, 0.5, 0.999, 1.001, 30.0])
def test_a_gradient_is_cut_to_the_greatest_norm_and_a_shorter_one_is_left(length, longest):
    recipe, weight = types.SimpleNamespace(max_grad_norm=longest), jnp.float32(4)
    mean = {"a": np.float32(length) * np.array([0.6, 0.0], np.float32)}
    mean["b"] = np.float32(length) * np.array([-0.8], np.float32)
    grads = jax.tree.map(lambda one: jnp.asarray(weight * one), mean)
    clipped, found = step.clipped_mean(recipe, grads, weight)
    np.testing.assert_allclose(found, length, rtol=1e-6)
    expected = mean
    if longest is not None:
        assert norm(clipped) <= longest
        expected = jax.tree.map(lambda one: one / max(1.0, length / longest), mean)
    tiny.assert_trees_close(clipped, expected, rtol=3e-6)


def test_float32_master_keeps_small_updates():
    optimizer = optim.make_optimizer(config.Optim(peak_lr=1e-6))
    recipe = types.SimpleNamespace(optimizer=optimizer, frozen=frozenset())
    grads = {"scale_D": jnp.full(4, 0.1)}
    update = jax.jit(lambda current: step.updated(recipe, current, grads, jnp.float32(1e-6)))
    current = step.init_state(recipe, {"scale_D": jnp.ones(4)})
    for _ in range(50):
        trained, opt_state = update(current)
        current = dataclasses.replace(current, trained=trained, opt_state=opt_state)
    scale = current.params["scale_D"]
    assert scale.dtype == np.float32
    # In bfloat16 each would round away.
    np.testing.assert_allclose(1 - scale, 50 * 1e-6, rtol=0.05)


def test_step_compiles_once_and_donates():
    over = mesh.make_mesh(tiny.ONE_DEVICE, jax.devices()[:1])
    graphdef, shapes, axes = state.abstract(tiny.SETTINGS, "float32", "none")
    recipe = step.Recipe(
        graphdef,
        optim.make_optimizer(tiny.OPTIM),
        make_schedule(tiny.OPTIM, 9),
        1,
        1.0,
        loss_form(tiny.SETTINGS),
    )
    placement = over_mesh.state_shardings(recipe, shapes, state.shardings(shapes, axes, over), over)
    with jax.set_mesh(over):
        train_step = over_mesh.jit_train_step(recipe, placement, over)
        current = step.init_state(recipe, jax.device_put(tiny.host_params(), placement.params))
        for seed in range(3):
            batch = dataclasses.replace(
                tiny.uneven_batch(rows=4), tokens_BT=np.full((4, 32), seed, np.int32)
            )
            before = current.params["embedding_VD"]
            current, _ = train_step(current, jax.device_put(batch, over_mesh.batch_sharding(over)))
            assert before.is_deleted()
        assert train_step.program._cache_size() == 1


@pytest.mark.parametrize(
    ("batch_size", "microbatches", "length", "match"),
    [(12, 1, 32, "batch_size=12"), (16, 4, 32, "batch_size=16"), (8, 1, 32, None)],
)
def test_batch_that_does_not_split_is_refused(batch_size, microbatches, length, match):
    over = mesh.make_mesh(config.Mesh(fsdp=8))
    if match is None:
        mesh_fit.check_batch(over.shape, batch_size, microbatches, length)
        return
    with pytest.raises(ConfigError, match=match):
        mesh_fit.check_batch(over.shape, batch_size, microbatches, length)
