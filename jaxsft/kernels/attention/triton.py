"""The back end `triton`: jax's Pallas kernel for GPUs, which masks segments and skips no blocks.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import warnings

import jax
import jax.numpy as jnp


def attend(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array,
    kv_segments_BT: jax.Array,
    first_query: jax.Array | int = 0,
    *,
    scale: float | None = None,
    window: jax.Array | int | None = None,
    windows: tuple[int, ...] = (),
    soft_cap: float | None = None,
    sinks_N: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """`kernels.attention.attend` for whole rows of full attention.

    Args:
        interpret: runs the kernel without a GPU, slowly.
    """
    del kv_segments_BT, first_query
    assert window is None and not windows and soft_cap is None and sinks_N is None, "refused before"
    with warnings.catch_warnings():  # jax 0.12 says that it will move to another package
        warnings.simplefilter("ignore", DeprecationWarning)
        from jax.experimental.pallas.ops.gpu.attention import mha
    group = q_BTNH.shape[2] // k_BTKH.shape[2]  # the kernel knows one number of heads
    k_BTNH, v_BTNH = (jnp.repeat(array, group, axis=2) for array in (k_BTKH, v_BTKH))
    return mha(
        q_BTNH,
        k_BTNH,
        v_BTNH,
        segments_BT,
        sm_scale=q_BTNH.shape[-1] ** -0.5 if scale is None else scale,
        causal=True,
        interpret=interpret,
    )
