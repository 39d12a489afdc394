"""The back end `triton`: jax's Pallas kernel for GPUs, which masks segments and skips no blocks.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import warnings

import jax
import jax.numpy as jnp

from jaxsft.kernels.attention.form import (
    AttentionForm,
    KeysAndValues,
    Use,
    Visibility,
    first_limit,
)


def refusal(use: Use) -> str | None:
    """Why a run's attention is not for this back end, or None."""
    return first_limit(
        [
            ("a row split over devices", use.query_length != use.length),
            ("soft caps", use.form.soft_cap is not None),
            ("sinks", use.form.sinks),
            ("sliding windows", bool(use.form.windows)),
            (f"rows of {use.length} tokens, not a multiple of 128", use.length % 128 > 0),
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
    with warnings.catch_warnings():  # jax 0.12 says that it will move to another package
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu.attention import mha
    group = q_BTNH.shape[2] // kv.k_BSKH.shape[2]  # the kernel knows one number of heads
    k_BTNH, v_BTNH = (jnp.repeat(array, group, axis=2) for array in (kv.k_BSKH, kv.v_BSKH))
    return mha(
        q_BTNH,
        k_BTNH,
        v_BTNH,
        visibility.q_segments_BT,
        sm_scale=form.scale,
        causal=True,
        interpret=interpret,
    )
