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


def scale(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.Array]:
    """Float32 ones; the name of a scale has `scale` in it, which spares it from weight decay."""
    return nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)


def bias(shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param[jax.Array]:
    """Float32 zeros; the name of a bias has `bias` in it, which spares it from weight decay."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)
