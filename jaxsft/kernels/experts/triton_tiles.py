"""Which rows a program of the experts' kernels for GPUs multiplies, and with whose matrix.

M: rows, E: expert, whose rows are a group, S / P: sweep / its tile.
"""

import jax
import jax.numpy as jnp

SWEEP = 16  # tiles whose programs run together, so that they find their factors in the cache


def of_rows(sizes_E: jax.Array, num_rows: int, height: int) -> jax.Array:
    """Expert, first row and end of each tile of at most `height` rows, int32 [S, P, 3].

    A tile has rows of one expert. Rows behind the last group are tiles too, of an expert that is
    not there, and so are tiles that the static number leaves over, without a row.

        sizes [3, 0, 5], 10 rows, height 4:   0 0 3,   2 3 7,   2 7 8,   3 8 10
    """
    num_experts = sizes_E.size
    rest = num_rows - jnp.sum(sizes_E)
    sizes_G = jnp.append(sizes_E, rest).astype(jnp.int32)  # G: an expert, or none
    tiles_G = -(-sizes_G // height)
    ends_G, tile_ends_G = jnp.cumsum(sizes_G), jnp.cumsum(tiles_G)
    # Each group's last tile lacks at most height - 1 rows.
    most = (num_rows + sizes_G.size * (height - 1)) // height
    sweeps = -(-most // SWEEP)
    tile = jnp.arange(sweeps * SWEEP, dtype=jnp.int32)
    # Counted at once: a search would be a loop of small programs.
    group = jnp.sum(tile_ends_G[None] <= tile[:, None], axis=1, dtype=jnp.int32)
    used, group = group <= num_experts, jnp.minimum(group, num_experts)
    within = (tile - tile_ends_G[group] + tiles_G[group]) * height
    end = jnp.where(used, ends_G[group], 0)
    first = jnp.where(used, end - sizes_G[group] + within, 0)
    found = jnp.stack([group, first, jnp.minimum(end, first + height)], axis=1)
    return found.reshape(sweeps, SWEEP, 3)


def of_groups(sizes_E: jax.Array) -> jax.Array:
    """First row and end of each group, int32 [E, 2]."""
    ends_E = jnp.cumsum(sizes_E)
    return jnp.stack([ends_E - sizes_E, ends_E], axis=1).astype(jnp.int32)
