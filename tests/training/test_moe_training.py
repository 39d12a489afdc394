"""Training a mixture of experts: how the work is divided changes nothing, and its figures."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import ConfigError
from jaxsft.model import moe_settings
from jaxsft.rundir.step_log import StepLog
from jaxsft.training import mesh_program
from jaxsft.training.flops import training_flops
from tests.training.test_mesh_fit import config as config_of_a_run

MOE = moe_settings.MoeSettings(
    num_experts=6,
    experts_per_token=2,
    expert_mlp_dim=24,
    normalised_shares=True,
    shared_mlp_dim=16,
    expert_biases=True,
    router_bias=True,
    init_stddev=0.2,
)
MODEL = dataclasses.replace(tiny.SETTINGS, moe=MOE)
ROWS, LENGTH, PADDING = 16, 32, 3  # of tiny.uneven_batch


def run(**changes):
    return tiny.run_steps(tiny.uneven_batch(), model=MODEL, **changes)


@pytest.fixture(scope="module")
def one_device():
    return run()


@pytest.mark.parametrize(
    "changes",
    [
        {"sizes": config.Mesh(expert=2, tensor=4)},
        {"sizes": config.Mesh(data=2, context=2, expert=2), "microbatches": 2},
        {"sizes": config.Mesh(fsdp=4, tensor=2), "remat": "full"},
    ],
    ids=str,
)
def test_how_the_work_is_divided_changes_nothing(one_device, changes):
    divided = run(**changes)
    tiny.assert_trees_close(divided.metrics.sums, one_device.metrics.sums)
    tiny.assert_trees_close(divided.metrics.routing_L, one_device.metrics.routing_L)
    tiny.assert_trees_close(divided.grad_sums, one_device.grad_sums)
    tiny.assert_trees_close(divided.state.params, one_device.state.params)


def test_every_real_token_is_counted_in_every_layer(one_device):
    routing = one_device.metrics.routing_L
    real = ROWS * (LENGTH - PADDING)
    np.testing.assert_array_equal(routing.tokens, [real] * MODEL.num_layers)
    np.testing.assert_array_equal(routing.assignments_E.sum(axis=1), [2 * real] * 2)
    np.testing.assert_allclose(routing.probability_E.sum(axis=1), [real] * 2, rtol=1e-5)
    assert (routing.assignments_E[0] != routing.assignments_E[1]).any()


def test_padding_reaches_no_expert(one_device):
    """Whatever its tokens are; in the sums of real tokens and in every gradient."""
    batch = tiny.uneven_batch()
    batch.tokens_BT[batch.segments_BT == 0] = 7
    other = tiny.run_steps(batch, model=MODEL)
    tiny.assert_trees_equal(other.metrics.routing_L, one_device.metrics.routing_L)
    tiny.assert_trees_close(other.grad_sums, one_device.grad_sums)


def test_every_parameter_has_a_gradient(one_device):
    for path, gradient in jax.tree_util.tree_leaves_with_path(one_device.grad_sums["layers"]):
        per_expert = gradient.reshape(*gradient.shape[:2], -1)
        assert per_expert.any(axis=-1).all(), jax.tree_util.keystr(path)


def test_bfloat16_trains(one_device):
    half = run(dtype="bfloat16", remat="full", num_steps=8)
    assert half.state.skipped_steps == 0
    assert half.metrics.sums.nll < 0.8 * one_device.metrics.sums.nll
    for leaf in jax.tree.leaves((half.state.params, half.metrics.routing_L)):
        assert leaf.dtype == np.float32


def test_flops_are_those_of_the_experts_that_a_token_uses():
    """2 of 6 experts of 3 x 32 x 24 weights and 80 biases, router 32 x 6 + 6, 3 x 32 x 16 + 32."""
    counts = BatchCounts(tokens=10, slots=10, attention_pairs={None: 0}, examples=1)
    used = 2 * (3 * 32 * 24 + 80) + 32 * 6 + 6 + 3 * 32 * 16 + 32
    dense = dataclasses.replace(MODEL, moe=None)
    saved = training_flops(dense, counts, 0) - training_flops(MODEL, counts, 0)
    assert saved == 6 * 10 * 2 * (3 * 32 * 64 - used)


def balance(*metrics):
    log = StepLog(
        MODEL,
        remat="none",
        every_steps=len(metrics),
        epochs_at=lambda step: 0.0,
        sources=(),
        peak_flops=None,
    )
    for done, one in enumerate(metrics):
        log.add(done, one, BatchCounts(8, 8, {None: 36}, 1), 0.0)
    (line,) = log.lines(flush=True)
    return line.others["expert_balance"]


def test_expert_balance_is_1_where_use_is_even_and_counts_every_token_once(one_device):
    """By layer: two layers that each use two experts only are uneven, though not the same two."""

    def made(shares_LE, tokens):
        shares_LE = np.array(shares_LE, np.float32)
        routing = dataclasses.replace(
            one_device.metrics.routing_L,
            assignments_E=2 * tokens * shares_LE,
            probability_E=tokens * shares_LE,
            tokens=np.full(2, tokens, np.float32),
        )
        return dataclasses.replace(one_device.metrics, routing_L=routing)

    even, left, right = [1 / 6] * 6, [0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0]
    assert balance(made([even, even], 10)) == pytest.approx(1)
    assert balance(made([left, right], 10)) == pytest.approx(6 / 2)
    assert balance(made([even, left], 10)) == pytest.approx((1 + 3) / 2)
    # Steps of 10 and 30 tokens: means of the sums, not means of the steps' means.
    mixed = 0.25 * np.array(left) + 0.75 * np.array(right)
    together = balance(made([left, left], 10), made([right, right], 30))
    assert together == pytest.approx(6 * np.sum(mixed**2))
    assert balance(made([even, even], 0)) is None


def test_the_back_end_is_chosen_for_the_devices_of_the_mesh():
    """Which may be others than those of this machine, as in a plan."""
    here = mesh_lib.make_mesh(tiny.ONE_DEVICE, jax.devices()[:1])
    chip, axes = SimpleNamespace(platform="tpu"), dict.fromkeys(mesh_lib.AXES, 1)
    there: Any = SimpleNamespace(devices=np.array([chip]), shape=axes)
    run = config_of_a_run()
    for mesh, expected in ((here, "tiled"), (there, "ragged")):
        decoder, choices = mesh_program.choose_back_ends(run, MODEL, mesh)
        assert decoder.moe == dataclasses.replace(MOE, back_end=expected)
        assert choices[-1][:2] == ("experts", expected)
    asked = dataclasses.replace(run, model=dataclasses.replace(run.model, experts="dense"))
    decoder, choices = mesh_program.choose_back_ends(asked, MODEL, there)
    assert decoder.moe == dataclasses.replace(MOE, back_end="dense")
    assert choices[-1] == ("experts", "dense", "asked for by config.model.experts")
    with pytest.raises(ConfigError, match="config.model.experts=dense: the model has no experts"):
        mesh_program.choose_back_ends(asked, tiny.SETTINGS, there)
    dense, choices = mesh_program.choose_back_ends(run, tiny.SETTINGS, there)
    assert dense.moe is None and "experts" not in [what for what, _, _ in choices]
