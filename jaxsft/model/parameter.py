"""Parameters: each declared in one line, and each weight multiplied with in one function.

Placement, initialisation, checkpoints and conversion all read the line. What a weight is beside
its numbers (adapters on top of it, a quantised form) is known to `product` and `whole` alone.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def matrix(
    rngs: nnx.Rngs, stddev: float, shape: tuple[int, ...], axes: tuple[str, ...]
) -> nnx.Param[jax.Array]:
    """A float32 parameter drawn from a normal distribution."""
    return nnx.Param(stddev * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def scale(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.Array]:
    """Float32 ones; the name of a scale has `scale` in it, which spares it from weight decay."""
    return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)


def bias(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.Array]:
    """Float32 zeros; the name of a bias has `bias` in it, which spares it from weight decay."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)


def product(
    equation: str,
    x: jax.Array,
    weight: nnx.Param[jax.Array],
    *,
    seen_as: tuple[int, ...] | None = None,
    **others: Any,
) -> jax.Array:
    """The einsum of activations and a weight, which is cast to their dtype.

    Args:
        seen_as: the shape in which `equation` names the weight; None: its own.
        others: of jnp.einsum.
    """
    array = whole(weight, x.dtype)
    return jnp.einsum(equation, x, array if seen_as is None else array.reshape(seen_as), **others)


def whole(weight: nnx.Param[jax.Array], dtype: jax.typing.DTypeLike | None = None) -> jax.Array:
    """The weight as an array, for kernels that multiply with it themselves, and for look-ups."""
    return weight[...] if dtype is None else weight[...].astype(dtype)
