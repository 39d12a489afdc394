"""The programs of grouped products for GPUs, in Pallas: rows times matrices, and their gradients.

Each sums up one block of its result in float32, in a fixed order, and no other writes to it: the
same bits each time.

M: rows, E: expert, K: contracted dimension of its matrix, F: the other one, C: that of the two
which a product contracts, O: the one which stays, S / P: sweep / its tile, R: rows of a tile or
of a step.
"""

import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxsft.kernels.experts.triton_tiles import SWEEP
from jaxsft.kernels.experts.triton_tiling import Tiling, fitted

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
    sweeps = tiles_SP3.shape[0]
    num_columns = w_EKF.shape[3 - call.contract]
    call = _fitting(call, width=num_columns, depth=x_MC.shape[1])
    return pl.pallas_call(
        functools.partial(_rows, call),
        jax.ShapeDtypeStruct((x_MC.shape[0], num_columns), x_MC.dtype),
        # The tiles of a sweep come first, then its columns: a wave of programs shares both factors.
        grid=(SWEEP, num_columns // call.tiling.width, sweeps),
        in_specs=(pl.BlockSpec((None, None, 3), lambda p, o, s: (s, p, 0)), _whole(), _whole()),
        out_specs=_whole(),
        name="experts_rows",
        **_compiled(call),
    )(tiles_SP3, x_MC, w_EKF)


@functools.partial(jax.jit, static_argnums=(0, 1))
def weights(
    call: Call, dtype: Any, groups_E2: jax.Array, x_MK: jax.Array, d_out_MF: jax.Array
) -> jax.Array:
    """Each group's x^T d_out, [E, K, F]; 0 where a group has no row."""
    num_experts, (num_rows, num_k), num_f = groups_E2.shape[0], x_MK.shape, d_out_MF.shape[1]
    call = _fitting(call, height=num_k, width=num_f)
    height, width = call.tiling.height, call.tiling.width
    sweep = fitted(num_k // height, SWEEP)
    return pl.pallas_call(
        functools.partial(_weights, call),
        jax.ShapeDtypeStruct((num_experts, num_k, num_f), dtype),
        grid=(sweep, num_f // width, num_k // height // sweep, num_experts),
        in_specs=(
            pl.BlockSpec((None, 2), lambda p, f, s, e: (e, 0)),
            pl.BlockSpec((num_rows, height), lambda p, f, s, e: (0, s * sweep + p)),
            pl.BlockSpec((num_rows, width), lambda p, f, s, e: (0, f)),
        ),
        out_specs=pl.BlockSpec((None, height, width), lambda p, f, s, e: (e, s * sweep + p, f)),
        name="experts_weights",
        **_compiled(call),
    )(groups_E2, x_MK, d_out_MF)


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


def _rows(call: Call, tile: Any, x: Any, w: Any, out: Any):
    height, width, depth, *_ = call.tiling
    expert, first, end = tile[0], tile[1], tile[2]
    mine, columns = pl.ds(first, height), pl.ds(pl.program_id(1) * width, width)
    used_R1 = (first + jnp.arange(height) < end)[:, None]

    def step(number, sum_RO):
        contracted = pl.ds(number * depth, depth)
        x_RC = _load(x.at[mine, contracted], used_R1)
        if call.contract == 1:
            return sum_RO + _dot(x_RC, w[expert, contracted, columns])
        return sum_RO + _dot(x_RC, w[expert, columns, contracted].T)

    # No jnp.where: of two constants jax's lowering makes two truth values, both false.
    num_steps = (expert < w.shape[0]).astype(jnp.int32) * (x.shape[1] // depth)
    sum_RO = jax.lax.fori_loop(0, num_steps, step, jnp.zeros((height, width), jnp.float32))
    mask_RO = jnp.broadcast_to(used_R1, sum_RO.shape)
    plgpu.store(out.at[mine, columns], sum_RO.astype(out.dtype), mask=mask_RO)


def _weights(call: Call, group: Any, x: Any, d_out: Any, out: Any):
    height, width, depth, *_ = call.tiling
    first, end = group[0], group[1]

    def step(number, sum_KF):
        start = first + number * depth
        used_R1 = (start + jnp.arange(depth) < end)[:, None]
        mine = pl.ds(start, depth)
        x_RK, d_out_RF = (_load(one.at[mine], used_R1) for one in (x, d_out))
        return sum_KF + _dot(x_RK.T, d_out_RF)

    num_steps = jax.lax.div(end - first + depth - 1, depth)
    sum_KF = jax.lax.fori_loop(0, num_steps, step, jnp.zeros((height, width), jnp.float32))
    out[...] = sum_KF.astype(out.dtype)


def _load(ref: Any, used_R1: jax.Array) -> jax.Array:
    """Rows of other groups, and what lies behind the array, as 0."""
    return plgpu.load(ref, mask=jnp.broadcast_to(used_R1, ref.shape), other=0.0)


def _fitting(call: Call, **sizes: int) -> Call:
    """With blocks that divide the given sizes."""
    tiling = call.tiling._asdict()
    fit = {side: fitted(size, tiling[side]) for side, size in sizes.items()}
    return call._replace(tiling=call.tiling._replace(**fit))


def _whole() -> pl.BlockSpec:
    return pl.BlockSpec()


def _compiled(call: Call) -> dict[str, Any]:
    tiling = call.tiling
    params = plgpu.CompilerParams(num_warps=tiling.num_warps, num_stages=tiling.num_stages)
    return {"compiler_params": params, "interpret": call.interpret}
