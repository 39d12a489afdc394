"""Each policy computes again what it says, and keeps less than the one before."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxsft.model import remat, state
from jaxsft.model.settings import QkNorm
from jaxsft.plan import cost, hlo
from jaxsft.training.loss import loss_sums
from jaxsft.training.loss_settings import loss_form

S = dataclasses.replace(tiny.SETTINGS, num_layers=8)


def measure(s, policy):
    """The flops of all matrix products, and bytes of temporaries."""
    batch, params = tiny.uneven_batch(), tiny.host_params(s)
    graphdef, _, _ = state.abstract(s, "float32", policy)
    grad = jax.grad(lambda params: loss_sums(graphdef, params, batch, loss_form(s)).nll)
    made = jax.jit(grad).lower(params).compile()
    flops = cost.matmul_flops(hlo.parse(made.as_text()))
    return flops, made.memory_analysis().temp_size_in_bytes


@pytest.fixture(scope="module")
def compiled():
    """What is measured, by policy."""
    return {policy: measure(S, policy) for policy in remat.KEPT}


def test_each_policy_computes_more_than_the_one_before_and_needs_less(compiled):
    flops, temporaries = zip(*compiled.values(), strict=True)
    assert list(flops) == sorted(flops) and len(set(flops)) == len(flops)
    assert list(temporaries) == sorted(temporaries, reverse=True)


def test_offloading_computes_what_full_does_and_keeps_the_inputs_on_the_host():
    """Where devices have memory of their own, that is: here both are one."""
    s = dataclasses.replace(S, num_layers=3)
    batch, params = tiny.uneven_batch(), tiny.host_params(s)
    gradients, programs = [], []
    for policy in ("full", remat.OFFLOADED):
        graphdef, _, _ = state.abstract(s, "float32", policy)

        def nll(params, graphdef=graphdef):
            return loss_sums(graphdef, params, batch, loss_form(s)).nll

        grad = jax.jit(jax.grad(nll))
        gradients.append(jax.device_get(grad(params)))
        programs.append(str(jax.make_jaxpr(grad)(params)))
    jax.tree.map(np.testing.assert_array_equal, *gradients)
    assert ["Host" in one or "pinned_host" in one for one in programs] == [False, True]
    assert remat.recomputed(remat.OFFLOADED) == remat.recomputed("full")


def test_saved_projections_leave_attention_alone_to_compute_again(compiled):
    """Of plain attention: queries times keys; the shares times values are kept."""
    tokens, length = tiny.uneven_batch().tokens_BT.size, tiny.uneven_batch().tokens_BT.shape[1]
    products = 2 * S.num_layers * tokens * length * S.num_heads * S.head_dim
    assert compiled["save_projections"][0] - compiled["none"][0] == pytest.approx(products)


def test_norms_of_heads_make_no_projection_again():
    s = dataclasses.replace(S, num_layers=2, qk_norm=QkNorm.HEAD)
    tokens, length = tiny.uneven_batch().tokens_BT.size, tiny.uneven_batch().tokens_BT.shape[1]
    products = 2 * s.num_layers * tokens * length * s.num_heads * s.head_dim
    saved, none = (measure(s, policy)[0] for policy in ("save_projections", "none"))
    assert saved - none == pytest.approx(products)


def test_full_computes_all_products_of_a_layer_but_the_last_again(compiled):
    """No gradient needs what the last one, down, gives."""
    tokens, length = tiny.uneven_batch().tokens_BT.size, tiny.uneven_batch().tokens_BT.shape[1]
    heads = 2 * S.num_heads + 2 * S.num_kv_heads
    weights = S.embed_dim * (heads * S.head_dim + 2 * S.mlp_dim)
    attention = 2 * length * S.num_heads * S.head_dim
    again = 2 * S.num_layers * tokens * (weights + attention)
    assert compiled["full"][0] - compiled["none"][0] == pytest.approx(again)
