"""The programs of grouped products for GPUs, in Pallas: rows times matrices, and their gradients.

Each sums up one block of its result in float32, in a fixed order, and no other writes to it: the
same bits each time.

M: rows, E: expert, K: contracted dimension of its matrix, F: the other one, C: that of the two
which a product contracts, O: the one which stays, S / P: sweep / its tile, R: rows of a tile or
of a step.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxsft.kernels.experts.triton_tiles import SWEEP
from jaxsft.kernels.experts.triton_tiling import Tiling, block, dividing

# As a compiled program spells the call of one of these kernels.
_CALLED = re.compile(r'[ {,]name ?= ?"experts_(rows|weights)"')
_dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


class Call(NamedTuple):
    """What is static of one call."""

    tiling: Tiling
    interpret: bool
    contract: int = 1  # of the matrices' dimensions; 2: they are multiplied transposed


# Both are under jit, because jax leaves them out of a remat's second forward pass only so, before
# 0.12.
@functools.partial(jax.jit, static_argnums=0)
def rows(call: Call, tiles_SP3: jax.Array, x_MC: jax.Array, w_EKF: jax.Array) -> jax.Array:
    """The rows of each tile times its expert's matrix, [M, O]; 0 where there is no expert."""
    num_columns = w_EKF.shape[3 - call.contract]
    tiling = call.tiling._replace(
        width=block(num_columns, call.tiling.width),
        depth=dividing(x_MC.shape[1], call.tiling.depth),
    )
    # The tiles of a sweep come first, then its columns: a wave of programs shares both factors.
    grid = (SWEEP, pl.cdiv(num_columns, tiling.width), tiles_SP3.shape[0])
    tile = pl.BlockSpec((None, None, 3), lambda p, o, s: (s, p, 0))
    out = jax.ShapeDtypeStruct((x_MC.shape[0], num_columns), x_MC.dtype)
    run = _call(_rows, call._replace(tiling=tiling), grid, tile, out)
    return run(tiles_SP3, x_MC, w_EKF)


@functools.partial(jax.jit, static_argnums=(0, 1))
def weights(
    call: Call, dtype: Any, groups_E2: jax.Array, x_MK: jax.Array, d_out_MF: jax.Array
) -> jax.Array:
    """Each group's x^T d_out, [E, K, F]; 0 where a group has no row."""
    num_experts, num_k, num_f = groups_E2.shape[0], x_MK.shape[1], d_out_MF.shape[1]
    tiling = call.tiling._replace(
        height=block(num_k, call.tiling.height), width=block(num_f, call.tiling.width)
    )
    num_blocks = pl.cdiv(num_k, tiling.height)
    sweep = max(size for size in range(1, SWEEP + 1) if num_blocks % size == 0)
    grid = (sweep, pl.cdiv(num_f, tiling.width), num_blocks // sweep, num_experts)
    group = pl.BlockSpec((None, 2), lambda p, f, s, e: (e, 0))
    out = jax.ShapeDtypeStruct((num_experts, num_k, num_f), dtype)
    run = _call(_weights, call._replace(tiling=tiling), grid, group, out)
    return run(groups_E2, x_MK, d_out_MF)


def flops(attributes: str, shapes: Iterable[tuple[int, ...]]) -> float | None:
    """Operations of an instruction with such attributes and operands; None: none of these.

    As if all rows were used.
    """
    called = _CALLED.search(attributes)
    if called is None:
        return None
    _, (num_rows, num_columns), factor = shapes
    other = factor[1] if called[1] == "weights" else factor[1] * factor[2] // num_columns
    return 2.0 * num_rows * num_columns * other


def _call(
    kernel: Callable[..., None],
    call: Call,
    grid: tuple[int, ...],
    first: pl.BlockSpec,
    out: jax.ShapeDtypeStruct,
) -> Callable[..., jax.Array]:
    """`pallas_call` of a kernel that is given a part of its first array, and the others whole."""
    tiling = call.tiling
    return pl.pallas_call(
        functools.partial(kernel, call),
        out,
        grid=grid,
        in_specs=(first, pl.BlockSpec(), pl.BlockSpec()),
        out_specs=pl.BlockSpec(),
        compiler_params=plgpu.CompilerParams(
            num_warps=tiling.num_warps, num_stages=tiling.num_stages
        ),
        interpret=call.interpret,
        name=f"experts{kernel.__name__}",
    )


def _rows(call: Call, tile: Any, x: Any, w: Any, out: Any):
    height, width, depth, *_ = call.tiling
    expert, first, end = tile[0], tile[1], tile[2]
    mine, columns = pl.ds(first, height), pl.ds(pl.program_id(1) * width, width)
    used_R = first + jnp.arange(height) < end
    inside_O = _inside(pl.program_id(1), width, out.shape[1])

    def step(number, sum_RO):
        contracted = pl.ds(number * depth, depth)
        x_RC = _load(x.at[mine, contracted], used_R, None)
        if call.contract == 1:
            return sum_RO + _dot(x_RC, _load(w.at[expert, contracted, columns], None, inside_O))
        return sum_RO + _dot(x_RC, _load(w.at[expert, columns, contracted], inside_O, None).T)

    # No jnp.where: of two constants jax's lowering makes two truth values, both false.
    num_steps = (expert < w.shape[0]).astype(jnp.int32) * (x.shape[1] // depth)
    sum_RO = jax.lax.fori_loop(0, num_steps, step, jnp.zeros((height, width), jnp.float32))
    _store(out.at[mine, columns], sum_RO, used_R, inside_O)


def _weights(call: Call, group: Any, x: Any, d_out: Any, out: Any):
    height, width, depth, *_ = call.tiling
    first, end = group[0], group[1]
    k_block = pl.program_id(2) * pl.num_programs(0) + pl.program_id(0)
    f_block, expert = pl.program_id(1), pl.program_id(3)
    in_k, in_f = pl.ds(k_block * height, height), pl.ds(f_block * width, width)
    inside_K = _inside(k_block, height, x.shape[1])
    inside_F = _inside(f_block, width, d_out.shape[1])

    def step(number, sum_KF):
        start = first + number * depth
        mine, used_R = pl.ds(start, depth), start + jnp.arange(depth) < end
        x_RK = _load(x.at[mine, in_k], used_R, inside_K)
        return sum_KF + _dot(x_RK.T, _load(d_out.at[mine, in_f], used_R, inside_F))

    num_steps = jax.lax.div(end - first + depth - 1, depth)
    sum_KF = jax.lax.fori_loop(0, num_steps, step, jnp.zeros((height, width), jnp.float32))
    _store(out.at[expert, in_k, in_f], sum_KF, inside_K, inside_F)


def _inside(number: Any, length: int, size: int) -> jax.Array | None:
    """Which of a block's places lie within `size`; None where each block's do."""
    return None if size % length == 0 else number * length + jnp.arange(length) < size


def _load(ref: Any, rows_R: jax.Array | None, columns_C: jax.Array | None) -> jax.Array:
    """What stands in some rows and columns of a block, None being all; 0 in the others."""
    mask_RC = _mask(ref.shape, rows_R, columns_C)
    return ref[...] if mask_RC is None else plgpu.load(ref, mask=mask_RC, other=0.0)


def _store(ref: Any, value_RC: jax.Array, rows_R: jax.Array | None, columns_C: jax.Array | None):
    mask_RC = _mask(value_RC.shape, rows_R, columns_C)
    plgpu.store(ref, value_RC.astype(ref.dtype), mask=mask_RC)


def _mask(shape: tuple[int, ...], rows_R: Any, columns_C: Any) -> jax.Array | None:
    if rows_R is None and columns_C is None:
        return None
    rows_R1 = True if rows_R is None else rows_R[:, None]
    columns_1C = True if columns_C is None else columns_C[None]
    return jnp.broadcast_to(rows_R1 & columns_1C, shape)
