"""Groups of rows times their matrices by a loop over tiles of rows, each of one group.

M: rows, R: rows of a tile, E: expert, whose rows are a group, K: contracted dimension,
F: the other one, C: that of the two which a product contracts, O: the one which stays.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

TILES_SCOPE = "expert_tiles"  # how the plan knows a compiled loop over tiles


@jax.custom_vjp
def tiled_dot(x_MK, w_EKF, sizes_E):
    """grouped_dot by a loop over tiles of rows; those after the last group hold anything."""
    return _tiled_rows(x_MK, w_EKF, sizes_E, contract=1)


def tiled_dot_backward(residuals, d_out_MF):
    x_MK, w_EKF, sizes_E = residuals
    d_x_MK = _tiled_rows(d_out_MF, w_EKF, sizes_E, contract=2)
    return d_x_MK, tiled_weights(x_MK, d_out_MF, sizes_E, w_EKF.dtype), None


tiled_dot.defvjp(
    lambda x_MK, w_EKF, sizes_E: (tiled_dot(x_MK, w_EKF, sizes_E), (x_MK, w_EKF, sizes_E)),
    tiled_dot_backward,
)


def tile_rows(num_rows: int, num_experts: int) -> int:
    """Rows of a tile: about a quarter of an even group, since half a tile per group is waste."""
    quarter = num_rows // (4 * num_experts)
    return min(max(32, 1 << quarter.bit_length()), 512)


def _each_tile(sizes_E, num_rows: int, body: Callable, start):
    """Folds body(expert, first_row, rows left in its group, value) over all tiles, in row order."""
    size = tile_rows(num_rows, sizes_E.size)
    tiles_E = -(-sizes_E // size)
    ends_E = jnp.cumsum(tiles_E)
    first_rows_E = jnp.cumsum(sizes_E) - sizes_E

    def step(tile, value):
        expert = jnp.searchsorted(ends_E, tile, side="right")
        within = (tile - ends_E[expert] + tiles_E[expert]) * size
        return body(expert, first_rows_E[expert] + within, sizes_E[expert] - within, value)

    with jax.named_scope(TILES_SCOPE):
        return jax.lax.fori_loop(0, ends_E[-1], step, start)


def _padded(x_MK, num_experts: int):
    """The rows with room for the last tile behind them, and the number of rows of a tile."""
    size = tile_rows(x_MK.shape[0], num_experts)
    return jnp.pad(x_MK, ((0, size), (0, 0))), size


def _tiled_rows(x_MC, w_EKF, sizes_E, contract: int):
    """Rows times their group's matrix, contracted over its dimension `contract`.

    A tile may reach into the next groups; their own tiles, which come later, overwrite that.
    """
    padded_MC, size = _padded(x_MC, sizes_E.size)

    def body(expert, first_row, _, out_MO):
        x_RC = jax.lax.dynamic_slice_in_dim(padded_MC, first_row, size)
        w_KF = jax.lax.dynamic_index_in_dim(w_EKF, expert, keepdims=False)
        out_RO = jax.lax.dot_general(x_RC, w_KF, (((1,), (contract - 1,)), ((), ())))
        return jax.lax.dynamic_update_slice_in_dim(out_MO, out_RO, first_row, axis=0)

    width = w_EKF.shape[3 - contract]
    start = jnp.zeros((padded_MC.shape[0], width), x_MC.dtype)
    return _each_tile(sizes_E, x_MC.shape[0], body, start)[: x_MC.shape[0]]


def tiled_weights(x_MK, d_out_MF, sizes_E, dtype):
    """Each group's x^T d_out, [E, K, F]; summed in float32."""
    padded_MK, size = _padded(x_MK, sizes_E.size)
    d_padded_MF, _ = _padded(d_out_MF, sizes_E.size)

    def body(expert, first_row, rows, d_w_EKF):
        inside_R1 = jnp.arange(size)[:, None] < rows
        x_RK = jax.lax.dynamic_slice_in_dim(padded_MK, first_row, size)
        d_out_RF = jax.lax.dynamic_slice_in_dim(d_padded_MF, first_row, size)
        d_w_KF = jax.lax.dot_general(
            x_RK,
            jnp.where(inside_R1, d_out_RF, 0),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return d_w_EKF.at[expert].add(d_w_KF)

    start = jnp.zeros((sizes_E.size, x_MK.shape[1], d_out_MF.shape[1]), jnp.float32)
    return _each_tile(sizes_E, x_MK.shape[0], body, start).astype(dtype)
