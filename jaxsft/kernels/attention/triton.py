"""The back end `triton`: jax's Pallas kernel for GPUs, which masks segments and skips no blocks.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxsft.kernels.attention import blocks
from jaxsft.kernels.attention.form import (
    AttentionForm,
    KeysAndValues,
    Use,
    Visibility,
    first_limit,
)

_MAX_HEAD_DIM = 128


def refusal(use: Use) -> str | None:
    """Why a run's attention is not for this back end, or None."""
    return first_limit(
        [
            ("a row split over devices", use.query_length != use.length),
            ("soft caps", use.form.soft_cap is not None),
            ("sinks", use.form.sinks),
            ("sliding windows", bool(use.form.windows)),
            (f"rows of {use.length} tokens, not a multiple of 128", use.length % 128 > 0),
            # XLA's compiler for an H100: they need more shared memory than there is.
            (f"heads of {use.head_dim}, more than {_MAX_HEAD_DIM}", use.head_dim > _MAX_HEAD_DIM),
            (f"dtype {use.dtype}", use.dtype == "float32"),
        ]
    )


def attend(
    q_BTNH: jax.Array,
    kv: KeysAndValues,
    visibility: Visibility,
    form: AttentionForm,
    interpret: bool = False,
) -> jax.Array:
    """`kernels.attention.attend` for whole rows of full attention.

    Args:
        interpret: runs the kernel without a GPU, slowly.
    """
    assert not form.windows and form.soft_cap is None and kv.sinks_N is None, "refused before"
    group = q_BTNH.shape[2] // kv.k_BSKH.shape[2]  # the kernel knows one number of heads
    k_BTNH, v_BTNH = (jnp.repeat(array, group, axis=2) for array in (kv.k_BSKH, kv.v_BSKH))
    return _attend(form.scale, interpret, q_BTNH, k_BTNH, v_BTNH, visibility.q_segments_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    scale: float,
    interpret: bool,
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    segments_BT: jax.Array,
) -> jax.Array:
    return _forward_rule(scale, interpret, q_BTNH, k_BTNH, v_BTNH, segments_BT)[0]


def _forward_rule(scale, interpret, q_BTNH, k_BTNH, v_BTNH, segments_BT):
    """The kernel's own rule keeps the same, but without names by which a policy could know them:
    every one of them would run the forward pass again."""
    results = _kernels().mha(
        q_BTNH,
        k_BTNH,
        v_BTNH,
        segments_BT,
        sm_scale=scale,
        causal=True,
        interpret=interpret,
        return_residuals=True,
    )
    out_BTNH, lse_BNT = (checkpoint_name(one, blocks.RESIDUAL_NAME) for one in results)
    return out_BTNH, (q_BTNH, k_BTNH, v_BTNH, segments_BT, out_BTNH, lse_BNT)


def _backward_rule(scale, interpret, residuals, d_out_BTNH):
    kernels = _kernels()
    # Not public, as the entry above is not for long: the self-test says so when they move.
    return kernels._mha_backward(
        scale,
        True,  # causal
        kernels.BlockSizes.get_default(),
        "triton",
        None,  # warps, by the size of a head
        2,  # stages
        None,  # grid, by the length
        interpret,
        False,  # debug
        False,  # residuals are not a result
        residuals,
        d_out_BTNH,
    )


_attend.defvjp(_forward_rule, _backward_rule)


def _kernels() -> Any:
    with warnings.catch_warnings():  # jax 0.12 says that it will move to another package
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu import attention
    return attention
