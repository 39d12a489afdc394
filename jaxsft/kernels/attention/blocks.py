"""Which blocks of queries and keys hold a pair that attention looks at.

T / S: query / key position, I / J: block of queries / keys, x: any dimensions.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.kernels.attention.form import Use

# The name by which remat policies know the output and the log-sum-exp that the backward pass needs.
RESIDUAL_NAME = "context"


def needed(
    q_segments_T: jax.Array,
    kv_segments_S: jax.Array,
    first_query: jax.Array | int,
    window: jax.Array | int | None,
    sizes: tuple[int, int],
) -> jax.Array:
    """True for each block that may hold a visible pair, bool [I, J]; for segments in any order.

    Two blocks share no segment where their ranges of segments don't meet. Packed rows count their
    segments up, so there the ranges say exactly which blocks share one.

        segments [1 1 1 2 | 2 2 3 3 | 3 3 0 0], blocks of 4:   needed  1 0 0
                                                                       1 1 0
                                                                       0 1 1
    """
    q_low_I, q_high_I = _ranges(q_segments_T, sizes[0])
    kv_low_J, kv_high_J = _ranges(kv_segments_S, sizes[1])
    meet_IJ = (q_low_I[:, None] <= kv_high_J[None]) & (kv_low_J[None] <= q_high_I[:, None])
    q_first_I = first_query + jnp.arange(q_low_I.size) * sizes[0]
    kv_first_J = jnp.arange(kv_low_J.size) * sizes[1]
    needed_IJ = meet_IJ & (kv_first_J[None] <= q_first_I[:, None] + sizes[0] - 1)
    if window is not None:
        needed_IJ &= kv_first_J[None] + sizes[1] - 1 > q_first_I[:, None] - window
    return needed_IJ


def needed_share(use: Use, segment_length: float, sizes: tuple[int, int]) -> float:
    """The share of (query, key) pairs in the blocks that are needed, in rows of like segments.

    The mean over the layers' windows, and over the parts of a row that is split over devices.

    Args:
        segment_length: in tokens, at least 1.
        sizes: of a block of queries and one of keys, which divide the rows.
    """
    order_S = 1 + np.arange(use.length) // round(segment_length)
    shares = [
        needed(
            jnp.asarray(order_S[first : first + use.query_length]),
            jnp.asarray(order_S),
            first,
            window,
            sizes,
        ).mean()
        for first in range(0, use.length, use.query_length)
        for window in use.form.windows or (None,)
    ]
    return float(np.mean(shares))


def _ranges(segments_T: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest segment of each block."""
    order_IT = in_order(segments_T).reshape(-1, size)
    return order_IT.min(axis=1), order_IT.max(axis=1)


def in_order(segments_xT: jax.Array) -> jax.Array:
    """The segments with a number for padding that, like padding, comes behind all others."""
    return jnp.where(segments_xT == 0, jnp.iinfo(segments_xT.dtype).max, segments_xT)
