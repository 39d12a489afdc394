"""Declaring a parameter: its shape, initialiser and logical axes in one line.

Placement, initialisation, checkpoints and conversion all read that line.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def matrix(
    rngs: nnx.Rngs, stddev: float, shape: tuple[int, ...], axes: tuple[str, ...]
) -> nnx.Param[jax.Array]:
    """A float32 parameter drawn from a normal distribution."""
    return nnx.Param(stddev * jax.random.normal(rngs.params(), shape, jnp.float32), axes=axes)


def scale(size: int, axis: str = "norm") -> nnx.Param[jax.Array]:
    """A float32 vector of ones."""
    return nnx.Param(jnp.ones((size,), jnp.float32), axes=(axis,))
