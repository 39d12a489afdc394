"""What the splash kernel is told (blocks, who sees whom, what to fetch), and what it computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.kernels.attention import splash
from jaxsft.kernels.attention.form import KeysAndValues, Visibility
from tests.kernels.attention import attention_cases as cases


@pytest.mark.parametrize(
    ("q_length", "kv_length", "head_dim", "dtype", "q_size", "kv_size"),
    [
        (2048, 3072, 64, "bfloat16", 1024, 1024),
        (1536, 1024, 128, "bfloat16", 512, 1024),
        (768, 2560, 128, "bfloat16", 256, 512),
        (384, 256, 128, "bfloat16", 128, 256),
        (1024, 1024, 192, "bfloat16", 512, 512),
        (1024, 1024, 64, "float32", 512, 512),
        (1024, 512, 256, "float32", 256, 256),
    ],
)
def test_blocks_are_the_largest_that_divide_and_fit(
    q_length, kv_length, head_dim, dtype, q_size, kv_size
):
    sizes = splash._block_sizes(q_length, kv_length, splash._head_bytes(head_dim, dtype))
    assert sizes.block_q == sizes.block_q_dq == sizes.block_q_dkv == q_size
    assert sizes.block_kv == sizes.block_kv_dq == sizes.block_kv_dkv == kv_size


@pytest.mark.parametrize("windows", [(), (5,), (7, 3), (7, 3, 2**30), (9, 2, 5, 7)])
def test_a_query_knows_its_position_and_its_layers_window(windows):
    """Up to positions that just fit into an integer with the number of the window."""
    mask, ones = splash._Mask(windows), np.ones(12, int)
    for first in (0, 2**29 - 12):
        places = first + jnp.arange(12)
        for window in windows or (None,):
            seen = mask(mask.encode(places, window)[:, None], places[None])
            np.testing.assert_array_equal(seen, cases.visible(ones, ones, 0, window))


def test_a_skipped_block_names_the_next_that_is_needed():
    """The last ones, behind which none is, name any: the first."""
    needed = jnp.array([[0, 1, 0, 0], [0, 0, 1, 0]], bool)
    np.testing.assert_array_equal(splash._next_needed(needed), [[1, 1, 2, 2], [2, 2, 2, 0]])


def test_the_kernels_compute_as_many_products_as_the_plan_counts():
    """Those that a TPU runs, as jax made them: nothing is interpreted."""
    case, found = cases.packed(length=128), {}

    def loss(arrays):
        visibility = Visibility(case.segments_BT, case.segments_BT)
        kv = KeysAndValues(arrays["k"], arrays["v"])
        return splash.attend(arrays["q"], kv, visibility, cases.form()).sum()

    for call in equations(jax.make_jaxpr(jax.grad(loss))(case.arrays).jaxpr):
        if call.primitive.name == "pallas_call":
            assert not call.params["interpret"]
            names = [one.primitive.name for one in equations(call.params["jaxpr"])]
            found[str(call.params["name"])] = names.count("dot_general")
    assert len(found) == 3
    assert found == {name: splash.products(name) for name in found}
    assert splash.products("fusion.3") is None


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
