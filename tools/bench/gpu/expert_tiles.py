"""Tilings of the experts' kernels for GPUs: the time of each, for both shapes of their matrices.

M: rows, E: expert, K: contracted dimension, F: the other one.
"""

import concurrent.futures
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.gpu import results, timing
from jaxsft.kernels.experts import triton_kernels, triton_tiles
from jaxsft.kernels.experts.triton_kernels import Call
from jaxsft.kernels.experts.triton_tiling import TABLE, Tiling, Tilings

_KERNELS = Tilings._fields
_ROUNDS = 10
# Height, width, depth, warps, stages. All fit a Hopper's shared memory, and its registers.
_GRID = [
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (128, 128, 64, 8, 3),
    (128, 128, 64, 4, 3),
    (64, 256, 64, 4, 3),
    (64, 128, 64, 4, 4),
    (256, 128, 64, 8, 3),
]
_TINY = [(16, 16, 16, 4, 2)]


class Sizes(NamedTuple):
    tokens: int
    embed_dim: int
    mlp_dim: int
    experts: int
    chosen: int

    @property
    def rows(self) -> int:
        return self.tokens * self.chosen


class _Arrays(NamedTuple):
    x_MK: jax.Array
    w_EKF: jax.Array
    d_out_MF: jax.Array
    sizes_E: jax.Array


def measure(sizes: Sizes) -> None:
    """A line for each kernel, tiling and shape, and one for each kernel's fastest."""
    shapes = [_arrays(sizes, *sides) for sides in _sides(sizes)]
    names = [(kernel, Tiling(*each)) for kernel in _KERNELS for each in _candidates(kernel)]
    programs = [jax.jit(_alone(*name)) for name in names]
    with concurrent.futures.ThreadPoolExecutor(1 if results.is_tiny() else 8) as pool:
        first = [[pool.submit(_ready, program, one) for one in shapes] for program in programs]
        concurrent.futures.wait([future for both in first for future in both])
    best: dict[str, tuple[float, Tiling]] = {}
    for (kernel, tiling), program, futures in zip(names, programs, first, strict=True):
        failed = next((error for one in futures if (error := one.exception()) is not None), None)
        line = {"kernel": kernel, "tiling": tiling}
        if failed is not None:  # the compiler's
            results.put("expert_tile", **line, error=results.said(failed))
            continue
        ms = {_name(one): _milliseconds(program, one) for one in shapes}
        flops = 2 * sizes.rows * sizes.embed_dim * sizes.mlp_dim
        tflops = {name: flops / one / 1e9 for name, one in ms.items()}
        results.put("expert_tile", **line, ms=ms, tflops=tflops)
        best[kernel] = min(best.get(kernel, (math.inf, tiling)), (sum(ms.values()), tiling))
    results.put("expert_tiles", **{kernel: tiling for kernel, (_, tiling) in best.items()})


def _name(arrays: _Arrays) -> str:
    return "{}x{}".format(*arrays.w_EKF.shape[1:])


def _sides(sizes: Sizes) -> list[tuple[int, int]]:
    """Of the matrices into the MLP, and of those out of it."""
    return [(sizes.embed_dim, sizes.mlp_dim), (sizes.mlp_dim, sizes.embed_dim)]


def _candidates(kernel: str) -> list[tuple[int, ...]]:
    """The table's own first."""
    if results.is_tiny():
        return _TINY
    return list(dict.fromkeys([getattr(TABLE, kernel), *_GRID]))


def _ready(program: Callable[..., Any], arrays: _Arrays) -> None:
    jax.block_until_ready(program(arrays))


def _milliseconds(program: Callable[..., Any], arrays: _Arrays) -> float:
    return timing.milliseconds(lambda: program(arrays), _ROUNDS)


def _alone(kernel: str, tiling: Tiling) -> Callable[[_Arrays], jax.Array]:
    """One kernel, with what finds its tiles."""
    call = Call(tiling, interpret=results.is_tiny())

    def run(arrays):
        x_MK, w_EKF, d_out_MF, sizes_E = arrays
        if kernel == "weights":
            groups_E2 = triton_tiles.of_groups(sizes_E)
            return triton_kernels.weights(call, w_EKF.dtype, groups_E2, x_MK, d_out_MF)
        tiles_SP3 = triton_tiles.of_rows(sizes_E, x_MK.shape[0], tiling.height)
        if kernel == "rows":
            return triton_kernels.rows(call, tiles_SP3, x_MK, w_EKF)
        return triton_kernels.rows(call._replace(contract=2), tiles_SP3, d_out_MF, w_EKF)

    return run


def _arrays(sizes: Sizes, num_k: int, num_f: int) -> _Arrays:
    """Rows that go to experts as an even router sends them."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (sizes.rows, num_k), (sizes.experts, num_k, num_f), (sizes.rows, num_f)
    x, w, d_out = (
        jax.random.normal(key, shape, jnp.bfloat16)
        for key, shape in zip(keys[:3], shapes, strict=True)
    )
    expert_M = jax.random.randint(keys[3], sizes.rows, 0, sizes.experts)
    return _Arrays(x, w, d_out, jnp.bincount(expert_M, length=sizes.experts).astype(jnp.int32))
