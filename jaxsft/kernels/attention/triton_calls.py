"""The calls of the kernels for GPUs: which block of each array a program is given.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim, P: query heads of a
program, M: N // P, I / J: block of queries / keys, V: a number of a block's visits.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxsft.kernels.attention import triton_kernels as kernels
from jaxsft.kernels.attention.triton_kernels import Backward, Inputs, Static
from jaxsft.kernels.attention.triton_tiling import Tiling

# As a compiled program spells the call of a kernel.
_CALLED = re.compile(r'"__gpu\$xla\.gpu\.triton".*[ {,]name ?= ?"(\w+)"', re.DOTALL)
# Of a block of queries and one of keys, by kernel.
_PRODUCTS = {
    kernels.attention_forward.__name__: 2,
    kernels.attention_keys_gradient.__name__: 4,
    kernels.attention_queries_gradient.__name__: 3,
}
# Programs that keep a GPU busy: about two for each core of an H100.
_ENOUGH_PROGRAMS = 256


# Under jit, because jax leaves it out of a remat's second forward pass only so, before 0.12.
@functools.partial(jax.jit, static_argnums=(0, 1))
def forward(
    static: Static, tiling: Tiling, visits_BIV: jax.Array, inputs: Inputs
) -> tuple[jax.Array, jax.Array]:
    """out_BTNH, and lse_BNT to the base 2, float32."""
    B, T, N, _ = inputs.q_BTNH.shape
    specs = _specs_by_query(tiling, inputs)
    lse = jax.ShapeDtypeStruct((B, N, T), jnp.float32)
    return _call(kernels.attention_forward, static, tiling)(
        (_like(inputs.q_BTNH), lse),
        grid=(N, T // tiling.block_q, B),
        in_specs=(specs.visits, specs.inputs),
        out_specs=(specs.held, specs.backward.lse_BNT),
    )(visits_BIV, inputs)


def queries_gradient(
    static: Static, tiling: Tiling, visits_BIV: jax.Array, inputs: Inputs, backward: Backward
) -> jax.Array:
    """d_q_BTNH."""
    B, T, N, _ = inputs.q_BTNH.shape
    specs = _specs_by_query(tiling, inputs)
    return _call(kernels.attention_queries_gradient, static, tiling)(
        _like(inputs.q_BTNH),
        grid=(N, T // tiling.block_q, B),
        in_specs=(specs.visits, specs.inputs, specs.backward),
        out_specs=specs.held,
    )(visits_BIV, inputs, backward)


def keys_gradient(
    static: Static, tiling: Tiling, visits_BJV: jax.Array, inputs: Inputs, backward: Backward
) -> tuple[jax.Array, ...]:
    """d_k_BTKH and d_v_BTKH.

    A program sums over the heads of a group, so that only the sum is written. Where that makes too
    few programs, each has a part of the group, and the parts are added up in float32.
    """
    (B, T, N, H), K = inputs.q_BTNH.shape, inputs.k_BTKH.shape[2]
    num_blocks = T // tiling.block_k
    num_heads = _heads_of_program(N // K, B * N * num_blocks)
    M = N // num_heads
    specs = _specs_by_key(tiling, inputs, num_heads)
    dtype = inputs.k_BTKH.dtype
    part_BTMH = jax.ShapeDtypeStruct((B, T, M, H), dtype if M == K else jnp.float32)
    parts = _call(kernels.attention_keys_gradient, static, tiling)(
        (part_BTMH, part_BTMH),
        grid=(M, num_blocks, B),
        in_specs=(specs.visits, specs.inputs, specs.backward),
        out_specs=(specs.held, specs.held),
    )(visits_BJV, inputs, backward)
    if M == K:
        return tuple(parts)
    return tuple(part.reshape(B, T, K, -1, H).sum(axis=3).astype(dtype) for part in parts)


def products(attributes: str) -> int | None:
    """Products of T x S x H of an instruction with these attributes; None: it is none of these.

    Its second operand are the queries [B, T, N, H], the third the keys [B, S, K, H].
    """
    called = _CALLED.search(attributes)
    return _PRODUCTS.get(called[1]) if called else None


def _heads_of_program(group: int, num_programs: int) -> int:
    """The most of a group's heads with which there are enough programs.

    Args:
        num_programs: with one head for each.
    """
    divisors = [count for count in range(group, 0, -1) if group % count == 0]
    return next((c for c in divisors if num_programs // c >= _ENOUGH_PROGRAMS), 1)


class _Specs(NamedTuple):
    visits: pl.BlockSpec
    inputs: Inputs
    backward: Backward
    held: pl.BlockSpec  # of results, which are like what a program holds


def _specs_by_query(tiling: Tiling, inputs: Inputs) -> _Specs:
    """For a grid of heads, blocks of queries and rows.

    The last block of queries comes first: it sees most keys, and nothing is to wait for it.
    """
    (_, T, N, H), K = inputs.q_BTNH.shape, inputs.k_BTKH.shape[2]
    size = tiling.block_q
    last = T // size - 1
    visits = pl.BlockSpec((None, None, 4), lambda n, x, b: (b, last - x, 0))
    queries = pl.BlockSpec((None, size, None, H), lambda n, x, b: (b, last - x, n, 0))
    statistics = pl.BlockSpec((None, None, size), lambda n, x, b: (b, n, last - x))
    keys = pl.BlockSpec((None, T, None, H), lambda n, x, b: (b, 0, jax.lax.div(n, N // K), 0))
    return _Specs(
        visits,
        Inputs(queries, keys, keys, *_whole_row(T)),
        Backward(queries, statistics, statistics),
        queries,
    )


def _specs_by_key(tiling: Tiling, inputs: Inputs, num_heads: int) -> _Specs:
    """For a grid of parts of the heads, blocks of keys and rows; the first keys are seen most."""
    (_, T, N, H), K = inputs.q_BTNH.shape, inputs.k_BTKH.shape[2]
    parts, size = N // K // num_heads, tiling.block_k
    visits = pl.BlockSpec((None, None, 4), lambda m, j, b: (b, j, 0))
    queries = pl.BlockSpec((None, T, num_heads, H), lambda m, j, b: (b, 0, m, 0))
    statistics = pl.BlockSpec((None, num_heads, T), lambda m, j, b: (b, m, 0))
    keys = pl.BlockSpec((None, size, None, H), lambda m, j, b: (b, j, jax.lax.div(m, parts), 0))
    return _Specs(
        visits,
        Inputs(queries, keys, keys, *_whole_row(T)),
        Backward(queries, statistics, statistics),
        pl.BlockSpec((None, size, None, H), lambda m, j, b: (b, j, m, 0)),
    )


def _whole_row(length: int) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """For the segments and the window."""
    return pl.BlockSpec((None, length), lambda _, x, b: (b, 0)), pl.BlockSpec((1,), lambda *_: (0,))


def _call(kernel: Callable[..., None], static: Static, tiling: Tiling) -> Callable[..., Any]:
    """`pallas_call`, which wants the shapes of results, the grid and the specs yet."""
    return functools.partial(
        pl.pallas_call,
        functools.partial(kernel, static, tiling),
        compiler_params=plgpu.CompilerParams(
            num_warps=tiling.num_warps, num_stages=tiling.num_stages
        ),
        interpret=static.interpret,
        name=kernel.__name__,
    )


def _like(array_x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array_x.shape, array_x.dtype)
