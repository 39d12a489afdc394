"""A number for each leaf that changes when any one bit of it does: on devices, and on the host."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any  # a pytree of arrays
# Knuth's multiplicative hash: an odd factor for each place, so that no bit's effect is lost.
_FACTOR = 2654435761


@jax.jit
def digests(tree: Tree) -> Tree:
    """A uint32 of every leaf that changes when any one bit of it does; the same on any mesh."""
    return jax.tree.map(_digest, tree)


@jax.jit
def finite(tree: Tree) -> Tree:
    """Of every leaf whether all of its numbers are finite; the same on any mesh."""
    return jax.tree.map(_finite, tree)


def _finite(array: jax.Array) -> jax.Array:
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return jnp.bool_(True)
    return jnp.all(jnp.isfinite(array))


def _digest(array: jax.Array) -> jax.Array:
    width = jnp.dtype(array.dtype).itemsize * 8
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{width}")).astype(jnp.uint32)
    index = jnp.zeros(array.shape, jnp.uint32)
    for dim, size in enumerate(array.shape):
        index = index * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, dim)
    odd = index * np.uint32(_FACTOR) * np.uint32(2) + np.uint32(1)
    return jnp.sum(bits * odd, dtype=jnp.uint32)


def of_part(part: np.ndarray, start: Sequence[int], shape: Sequence[int]) -> int:
    """What a part adds to the digest of its array; the sum of all parts, modulo 2**32, is that.

    Args:
        part: a block of an array of `shape` that begins at index `start`.
    """
    bits = np.ascontiguousarray(part).view(f"uint{part.dtype.itemsize * 8}").astype(np.uint32)
    index = np.zeros((1,) * part.ndim, np.uint32)
    for dim, size in enumerate(shape):
        along = np.arange(start[dim], start[dim] + part.shape[dim], dtype=np.uint32)
        rest = (1,) * (part.ndim - dim - 1)
        index = index * np.uint32(size) + along.reshape(-1, *rest)
    odd = index * np.uint32(_FACTOR) * np.uint32(2) + np.uint32(1)
    return int(np.sum(bits * odd, dtype=np.uint32))


def named(tree: Tree) -> dict[str, Any]:
    """Leaves by their dotted path; numpy scalars become ints."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            int(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
