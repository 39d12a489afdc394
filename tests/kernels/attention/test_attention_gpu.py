"""What can be said of the kernels for GPUs without one; the self-test says the rest on a GPU."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxsft.kernels.attention import blocks, cudnn, triton
from jaxsft.kernels.attention.form import KeysAndValues, Visibility
from jaxsft.model import remat
from tests.kernels.attention import attention_cases as cases


def test_triton_equals_the_reference():
    run = functools.partial(triton.attend, interpret=True)
    cases.assert_equals_reference(
        run, cases.packed(length=256, heads=3, kv_heads=1), cases.form(scale=0.3)
    )


@pytest.mark.parametrize(("policy", "forwards"), [("save_context", 1), ("full", 2)])
def test_tritons_forward_pass_runs_once_where_its_results_are_kept(policy, forwards):
    case = cases.packed(length=128)
    kv = KeysAndValues(case.arrays["k"], case.arrays["v"])
    seen = Visibility(case.segments_BT, case.segments_BT)

    def layer(q):
        return jnp.sin(triton.attend(q, kv, seen, cases.form()))

    kept = remat.remat(layer, policy, {remat.Part.MIXED: (blocks.RESIDUAL_NAME,)})
    program = str(jax.make_jaxpr(jax.grad(lambda q: kept(q).sum()))(case.arrays["q"]))
    assert program.count("name=mha_forward") == forwards
    assert "interpret=True" not in program


@pytest.mark.parametrize(
    ("attend", "static"),
    [
        (attend, static)
        for attend in (cudnn.attend, triton.attend)
        for static in ({"soft_cap": 3.0}, {"sinks": True}, {"windows": (3, 5)})
    ],
)
def test_what_was_refused_does_not_come_to_a_kernel(attend, static):
    with pytest.raises(AssertionError, match="refused before"):
        cases.outcome(attend, cases.packed(length=128), cases.form(**static))
