"""Which blocks a program of the kernels for GPUs visits, and which of them it need not mask.

B: batch row, T: position, I / J: block of queries / keys, X / Y: the block that a program holds /
the one that it visits, V: one of the four numbers of its visits.
"""

import jax
import jax.numpy as jnp

from jaxsft.kernels.attention import blocks


def of_queries(
    segments_BT: jax.Array, window: jax.Array | None, sizes: tuple[int, int]
) -> jax.Array:
    """Blocks of keys that each block of queries visits, int32 [B, I, V].

    Four numbers say them: `first`, `whole_first`, `whole_end`, `end`. All that it needs lie from
    `first` to before `end`; of those from `whole_first` to before `whole_end`, each of its queries
    sees each key. In rows whose segments are in order, that is all such blocks.

        segments [1 1 1 2 | 2 2 2 2 | 2 2 2 2 | 2 2 3 3], blocks of 4:   0 0 0 1
                                                                         0 0 0 2
                                                                         0 1 2 3
                                                                         0 0 0 4
    """
    return jax.vmap(lambda segments_T: _visits(*_pairs(segments_T, window, sizes)))(segments_BT)


def of_keys(segments_BT: jax.Array, window: jax.Array | None, sizes: tuple[int, int]) -> jax.Array:
    """Blocks of queries that each block of keys visits, int32 [B, J, V], in the same numbers."""

    def row(segments_T):
        return _visits(*(pairs_IJ.T for pairs_IJ in _pairs(segments_T, window, sizes)))

    return jax.vmap(row)(segments_BT)


def _pairs(segments_T: jax.Array, window: jax.Array | None, sizes: tuple[int, int]):
    """Whether a block of queries and one of keys hold a visible pair, and whether all are."""
    needed_IJ = blocks.needed(segments_T, segments_T, 0, window, sizes)
    low_I, high_I = _ranges(segments_T, sizes[0])
    low_J, high_J = _ranges(segments_T, sizes[1])
    same_IJ = (low_I == high_I)[:, None] & (low_J == high_J)[None] & (low_I[:, None] == low_J[None])
    first_I = jnp.arange(low_I.size)[:, None] * sizes[0]
    first_J = jnp.arange(low_J.size)[None] * sizes[1]
    whole_IJ = same_IJ & (first_J + sizes[1] - 1 <= first_I)
    if window is not None:
        whole_IJ &= first_J > first_I + sizes[0] - 1 - window
    return needed_IJ, whole_IJ


def _ranges(segments_T: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    cut_XT = segments_T.reshape(-1, size)
    return cut_XT.min(axis=1), cut_XT.max(axis=1)


def _visits(needed_XY: jax.Array, whole_XY: jax.Array) -> jax.Array:
    """[X, V]; the last run of whole blocks is taken, and one is there for the rows in order."""
    number_Y = jnp.arange(needed_XY.shape[1], dtype=jnp.int32)
    first_X = jnp.min(jnp.where(needed_XY, number_Y[None], number_Y.size), axis=1)
    end_X = jnp.max(jnp.where(needed_XY, number_Y[None] + 1, 0), axis=1)
    # Where no block is whole, the run is empty and lies at the first.
    whole_end_X = jnp.maximum(first_X, jnp.max(jnp.where(whole_XY, number_Y[None] + 1, 0), axis=1))
    before_XY = ~whole_XY & (number_Y[None] < whole_end_X[:, None])
    whole_first_X = jnp.maximum(
        first_X, jnp.max(jnp.where(before_XY, number_Y[None] + 1, 0), axis=1)
    )
    return jnp.stack([first_X, whole_first_X, whole_end_X, end_X], axis=1).astype(jnp.int32)
