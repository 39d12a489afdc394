"""Layers that are not all alike: how they are put in stacks, and that stacks change no law."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxsft import config
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.devices import mesh
from jaxsft.model import layer_stacks, moe_settings, state
from jaxsft.training.flops import recomputed_flops, training_flops
from jaxsft.training.loss import loss_and_routing
from jaxsft.training.loss_settings import loss_form

MOE = moe_settings.MoeSettings(
    num_experts=4, experts_per_token=2, expert_mlp_dim=24, normalised_shares=True, init_stddev=0.1
)
# Experts twice in three layers: one run of three stacks.
MIXED = dataclasses.replace(tiny.SETTINGS, num_layers=6, moe=MOE, dense_layers=(2, 5))
# Of two stacks, where a gradient is compiled.
TURNS = dataclasses.replace(MIXED, num_layers=4, dense_layers=(1, 3))


def runs(letters: str) -> str:
    """Of layers with experts (E) and without (D): the stacks, | between runs."""
    dense = tuple(i for i, letter in enumerate(letters) if letter == "D")
    s = dataclasses.replace(tiny.SETTINGS, num_layers=len(letters), moe=MOE, dense_layers=dense)
    found = layer_stacks.runs(s)
    turns = [turn for run in found for turn in zip(*(k.layers for k in run), strict=True)]
    assert [layer for turn in turns for layer in turn] == list(range(len(letters)))
    for stack in layer_stacks.stacks(s):
        assert {letters[i] for i in stack.layers} == {"E" if stack.has_experts else "D"}
    return " | ".join(
        " ".join(f"{k.name}:{','.join(map(str, k.layers))}" for k in run) for run in found
    )


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("EEE", "experts_0:0,1,2"),
        ("DD", "dense_0:0,1"),
        ("DEEE", "dense_0:0 | experts_1:1,2,3"),
        ("DEDEDE", "dense_0:0,2,4 experts_1:1,3,5"),
        ("DDEDDE", "dense_0:0,3 dense_1:1,4 experts_2:2,5"),
        ("DDEEDEED", "dense_0:0,1 | experts_2:2,5 experts_3:3,6 dense_4:4,7"),
        ("EDDDE", "experts_0:0 | dense_1:1,2,3 | experts_4:4"),
    ],
)
def test_like_layers_are_stacked_and_those_that_take_turns_share_a_run(letters, expected):
    assert runs(letters) == expected


def test_a_model_of_like_layers_has_its_parameters_in_one_stack():
    for s in (tiny.SETTINGS, dataclasses.replace(tiny.SETTINGS, moe=MOE)):
        _, shapes, _ = state.abstract(s, "float32", "none")
        assert set(shapes["layers"]) > {"attention", "attention_norm"}
    _, shapes, axes = state.abstract(MIXED, "float32", "none")
    assert set(shapes["layers"]) == {"experts_0", "experts_1", "dense_2"}
    assert shapes["layers"]["experts_1"]["moe"]["up_EDF"].shape == (2, 4, 32, 24)
    assert axes["layers"]["experts_1"]["moe"]["up_EDF"][:2] == ("layer", "expert")


def _gradient(over, remat):
    """Loss, routing and gradient, which goes to slots as in the step."""
    batch, params = tiny.uneven_batch(rows=8), tiny.host_params(TURNS)
    graphdef, shapes, axes = state.abstract(TURNS, "float32", remat)

    def nll(slots, params):
        sums, routing = loss_and_routing(graphdef, params, batch, loss_form(TURNS), slots)
        return sums.nll, routing

    with jax.set_mesh(over):
        params = jax.device_put(params, state.shardings(shapes, axes, over))
        slots = jax.tree.map(np.zeros_like, params)
        measured = jax.jit(jax.value_and_grad(nll, has_aux=True))(slots, params)
        return jax.device_get(measured)


def test_mesh_and_remat_change_nothing():
    (loss, routing), gradient = _gradient(mesh.single_device_mesh(), "none")
    sizes = config.Mesh(data=2, fsdp=1, expert=2, tensor=2)
    (other_loss, other_routing), other = _gradient(
        mesh.make_mesh(sizes, jax.devices()), "save_context"
    )
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    tiny.assert_trees_close(other_routing, routing)
    tiny.assert_trees_close(other, gradient)


def test_routing_is_told_layer_by_layer_in_the_models_order():
    """Of layers 0, 1, 3, 4; the router of layer 3 is made to find all experts equal."""
    params, batch = tiny.host_params(MIXED), tiny.uneven_batch()
    params["layers"]["experts_0"]["moe"]["router_DE"][1] = 0
    graphdef, _, _ = state.abstract(MIXED, "float32", "none")
    probability_LE = jax.jit(lambda p: loss_and_routing(graphdef, p, batch, loss_form(MIXED))[1])(
        params
    ).probability_E
    spread_L = np.ptp(probability_LE, axis=1) / np.mean(probability_LE, axis=1)
    assert (spread_L < 1e-5).tolist() == [False, False, True, False]


def test_operations_are_the_sum_of_each_layers():
    counts = BatchCounts.of_segments(np.asarray([5, 9]), 32, (None,))
    dense = dataclasses.replace(tiny.SETTINGS, num_layers=1)
    experts = dataclasses.replace(dense, moe=MOE)

    def both(s):
        return np.array([training_flops(s, counts, 0), recomputed_flops(s, counts, "full")])

    np.testing.assert_array_equal(both(MIXED), 2 * both(dense) + 4 * both(experts))
