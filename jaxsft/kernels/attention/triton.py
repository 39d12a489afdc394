"""The back end `triton`: flash attention for GPUs, which skips what lies between segments.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxsft.kernels.attention import blocks, triton_calls, triton_visits
from jaxsft.kernels.attention.form import (
    AttentionForm,
    KeysAndValues,
    Use,
    Visibility,
    first_limit,
)
from jaxsft.kernels.attention.triton_kernels import Backward, Inputs, Static
from jaxsft.kernels.attention.triton_tiling import (
    LENGTH_UNIT,
    MAX_HEAD_DIM,
    Tilings,
    for_head_dim,
)

_LEAST_HEAD_DIM = 16  # of a product of Triton's


def refusal(use: Use) -> str | None:
    """Why a run's attention is not for this back end, or None."""
    uneven = use.length % LENGTH_UNIT > 0
    return first_limit(
        [
            ("a row split over devices", use.query_length != use.length),
            ("soft caps", use.form.soft_cap is not None),
            ("sinks", use.form.sinks),
            (f"rows of {use.length} tokens, not a multiple of {LENGTH_UNIT}", uneven),
            (f"heads of {use.head_dim}, more than {MAX_HEAD_DIM}", use.head_dim > MAX_HEAD_DIM),
            # Twice the shared memory, and products that are not done by tensor cores.
            (f"dtype {use.dtype}", use.dtype == "float32"),
        ]
    )


def block_sizes(use: Use) -> tuple[int, int]:
    """Of queries and keys, in the kernel that has most of the products; the others' are alike."""
    tiling = for_head_dim(use.head_dim).keys
    return tiling.block_q, tiling.block_k


class _How(NamedTuple):
    static: Static
    tilings: Tilings


def attend(
    q_BTNH: jax.Array,
    kv: KeysAndValues,
    visibility: Visibility,
    form: AttentionForm,
    interpret: bool = False,
    tilings: Tilings | None = None,
) -> jax.Array:
    """`kernels.attention.attend` for whole rows.

    Args:
        interpret: runs the kernel without a GPU, slowly.
        tilings: others than those of the table, to measure them.
    """
    assert form.soft_cap is None and kv.sinks_N is None, "refused before"
    assert form.scale > 0, f"scale={form.scale} turns a maximum into a minimum"
    length, head_dim = q_BTNH.shape[1], q_BTNH.shape[-1]
    window = visibility.window
    window_1 = jnp.asarray(length if window is None else window, jnp.int32).reshape(1)
    # Triton's blocks have powers of two. Zeros add nothing to a product.
    size = max(_LEAST_HEAD_DIM, 1 << (head_dim - 1).bit_length())
    filling = [(0, 0)] * 3 + [(0, size - head_dim)]
    inputs = Inputs(
        *(jnp.pad(array, filling) for array in (q_BTNH, kv.k_BSKH, kv.v_BSKH)),
        segments_BT=visibility.q_segments_BT,
        window_1=window_1,
    )
    how = _How(Static(form.scale, window is not None, interpret), tilings or for_head_dim(size))
    out_BTNH: Any = _attend(how, inputs)
    return out_BTNH[..., :head_dim]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how: _How, inputs: Inputs) -> jax.Array:
    return _forward_rule(how, inputs)[0]


def _forward_rule(how: _How, inputs: Inputs):
    tiling = how.tilings.forward
    visits_BIV = triton_visits.of_queries(*_seen(how, inputs), (tiling.block_q, tiling.block_k))
    results = triton_calls.forward(how.static, tiling, visits_BIV, inputs)
    out_BTNH, lse_BNT = (checkpoint_name(one, blocks.RESIDUAL_NAME) for one in results)
    return out_BTNH, (inputs, out_BTNH, lse_BNT)


def _backward_rule(how: _How, residuals, d_out_BTNH: jax.Array):
    inputs, out_BTNH, lse_BNT = residuals
    mean_BTN = jnp.sum(d_out_BTNH.astype(jnp.float32) * out_BTNH.astype(jnp.float32), axis=-1)
    backward = Backward(d_out_BTNH, lse_BNT, jnp.swapaxes(mean_BTN, 1, 2))
    tiling = how.tilings.keys
    visits_BJV = triton_visits.of_keys(*_seen(how, inputs), (tiling.block_q, tiling.block_k))
    d_k_BTKH, d_v_BTKH = triton_calls.keys_gradient(
        how.static, tiling, visits_BJV, inputs, backward
    )
    tiling = how.tilings.queries
    visits_BIV = triton_visits.of_queries(*_seen(how, inputs), (tiling.block_q, tiling.block_k))
    d_q_BTNH = triton_calls.queries_gradient(how.static, tiling, visits_BIV, inputs, backward)
    return (Inputs(d_q_BTNH, d_k_BTKH, d_v_BTKH, None, None),)


_attend.defvjp(_forward_rule, _backward_rule)


def _seen(how: _How, inputs: Inputs) -> tuple[jax.Array, jax.Array | None]:
    """The segments, and the window if there is one."""
    return inputs.segments_BT, inputs.window_1[0] if how.static.windowed else None
