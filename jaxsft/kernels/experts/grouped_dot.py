"""Groups of consecutive rows, each times its own matrix.

M: rows, E: expert, whose rows are a group, K: contracted dimension, F: the other.
"""

import functools

import jax
import jax.numpy as jnp

from jaxsft.kernels.experts import tiles, triton

# Rows, K and F of a kernel's tile: what fits into the 16 MiB that a TPU core gives a kernel, with
# float32 inputs too.
_KERNEL_TILE = (512, 512, 1024)


def grouped_dot(x_MK: jax.Array, w_EKF: jax.Array, sizes_E: jax.Array, back_end: str) -> jax.Array:
    """Each group of consecutive rows times its own matrix, [M, F] in the dtype of x.

    Args:
        sizes_E: int32 rows of each group; rows after the last group give 0.
    """
    if back_end == "triton":
        return triton.dot(x_MK, w_EKF, sizes_E)  # which leaves out unused rows by itself
    used_M1 = (jnp.arange(x_MK.shape[0]) < jnp.sum(sizes_E))[:, None]
    dot = {"tiled": tiles.tiled_dot, "ragged": _ragged_dot}[back_end]
    # Both ways, so that whatever the back end leaves in unused rows stays out of gradients too.
    out_MF = dot(jnp.where(used_M1, x_MK, 0), w_EKF, sizes_E)
    return jnp.where(used_M1, out_MF, 0)


@jax.custom_vjp
def _ragged_dot(x_MK, w_EKF, sizes_E):
    return jax.lax.ragged_dot(x_MK, w_EKF, sizes_E)


def _ragged_dot_backward(residuals, d_out_MF):
    x_MK, w_EKF, sizes_E = residuals
    d_x_MK = jax.lax.ragged_dot(d_out_MF, w_EKF.swapaxes(1, 2), sizes_E)
    kernel, tiled = (
        functools.partial(weights, dtype=w_EKF.dtype)
        for weights in (kernel_weights, tiles.tiled_weights)
    )
    d_w_EKF = jax.lax.platform_dependent(x_MK, d_out_MF, sizes_E, tpu=kernel, default=tiled)
    return d_x_MK, d_w_EKF, None


_ragged_dot.defvjp(
    lambda x_MK, w_EKF, sizes_E: (_ragged_dot(x_MK, w_EKF, sizes_E), (x_MK, w_EKF, sizes_E)),
    _ragged_dot_backward,
)


def kernel_weights(x_MK, d_out_MF, sizes_E, dtype, interpret=False):
    """Each group's x^T d_out, [E, K, F], by a kernel for TPU that skips unused rows."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    rows = min(_KERNEL_TILE[0], x_MK.shape[0])
    tail = ((0, -x_MK.shape[0] % rows), (0, 0))  # it takes whole tiles of rows
    x_MK, d_out_MF = jnp.pad(x_MK, tail), jnp.pad(d_out_MF, tail)
    tiles = (rows, *_KERNEL_TILE[1:])
    return tgmm(x_MK.T, d_out_MF, sizes_E, dtype, tiles, interpret=interpret)
