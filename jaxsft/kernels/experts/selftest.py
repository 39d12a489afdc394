"""Whether a back end's grouped product is one, on a run's own shapes and device.

M: rows, E: expert, whose rows are a group, K: contracted dimension, F: the other one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsft.kernels.experts.form import Use
from jaxsft.kernels.experts.grouped_dot import grouped_dot

ALLOWED = 2e-2  # relative, by norms: bfloat16 differs from float32 by about 3e-3
# A tile begun, no row, a row, several tiles; and rows of nobody, which hold no number.
_SIZES = (3, 0, 1, 300, 129)
_UNUSED = 20

Dot = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
_TILED = functools.partial(grouped_dot, back_end="tiled")


@functools.cache  # a program is built more than once in a run
def difference(dot: Dot, use: Use, device: Any) -> float:
    """The greatest relative difference to tiles in float32, of products and both gradients."""
    found = []
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        for sides in ((use.embed_dim, use.mlp_dim), (use.mlp_dim, use.embed_dim)):
            arrays = _example(sides, use.dtype)
            exact = tuple(array.astype(jnp.float32) for array in arrays)
            expected = _outcome(_TILED, *exact)
            found += map(_relative, expected, _outcome(dot, *arrays))
    return float(jnp.max(jnp.stack(found)))  # NaN where one is


def _example(sides: tuple[int, int], dtype: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rows, matrices and the product's gradient."""
    used = sum(_SIZES)
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (used, sides[0]), (len(_SIZES), *sides), (used, sides[1])
    x_MK, w_EKF, d_out_MF = (
        jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)
    )
    unused = ((0, _UNUSED), (0, 0))
    x_MK, d_out_MF = (jnp.pad(one, unused, constant_values=jnp.nan) for one in (x_MK, d_out_MF))
    return x_MK, w_EKF, d_out_MF


@functools.partial(jax.jit, static_argnums=0)
def _outcome(
    dot: Dot, x_MK: jax.Array, w_EKF: jax.Array, d_out_MF: jax.Array
) -> tuple[jax.Array, ...]:
    """The product, and the gradients of rows and matrices."""
    sizes_E = jnp.asarray(_SIZES, jnp.int32)

    out_MF, back = jax.vjp(lambda x_MK, w_EKF: dot(x_MK, w_EKF, sizes_E), x_MK, w_EKF)
    return out_MF, *back(d_out_MF)


def _relative(expected_x: jax.Array, actual_x: jax.Array) -> jax.Array:
    apart_x = jnp.ravel(actual_x.astype(jnp.float32) - expected_x)
    return jnp.linalg.norm(apart_x) / jnp.linalg.norm(jnp.ravel(expected_x))
