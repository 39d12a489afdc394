"""Tilings of the Triton kernels of attention: the times of each, and of the best ones together.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import concurrent.futures
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.gpu import results, timing
from jaxsft.kernels.attention import triton, triton_calls, triton_tiling, triton_visits
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Visibility
from jaxsft.kernels.attention.triton_kernels import Backward, Inputs, Static
from jaxsft.kernels.attention.triton_tiling import Tiling, Tilings

_KERNELS = Tilings._fields
_SEGMENTS = (1, 4, 16)
_ROUNDS = 20
# By kernel: block_q, block_k, warps, stages. All fit a Hopper's shared memory, and its registers
# but for a few.
_GRID = {
    "forward": [
        (128, 64, 8, 3),
        (128, 128, 8, 2),
        (64, 64, 4, 3),
        (128, 32, 4, 3),
        (128, 64, 4, 3),
    ],
    "keys": [(64, 128, 8, 2), (64, 64, 4, 2), (32, 64, 4, 3), (32, 128, 8, 3), (64, 128, 8, 3)],
    "queries": [(128, 64, 8, 2), (64, 64, 4, 2), (128, 32, 8, 3), (128, 128, 8, 2), (64, 64, 4, 3)],
}
_TINY = Tiling(16, 32, 4, 2)


class _Shape(NamedTuple):
    T: int
    N: int
    K: int
    H: int


_SHAPES = (_Shape(4096, 32, 8, 64), _Shape(4096, 32, 8, 128))


class _Candidate(NamedTuple):
    kernel: str
    tiling: Tiling


def measure() -> None:
    """Each kernel alone; then what a run does, with the table's tilings and with the best."""
    for shape in [_Shape(64, 4, 2, 16)] if results.is_tiny() else _SHAPES:
        table = triton_tiling.for_head_dim(shape.H)
        if results.is_tiny():
            table = Tilings(_TINY, _TINY, _TINY)
        candidates = _candidates(table)
        means = _put_times(
            "tile", shape, [(one._asdict(), _alone(shape, one)) for one in candidates]
        )
        times = dict(zip(candidates, means, strict=True))
        best = Tilings(*(_fastest(kernel, times) for kernel in _KERNELS))
        named = {"table": table} | ({} if best == table else {"best": best})
        _put_times(
            "tiles",
            shape,
            [
                ({"name": name, "way": way, "tilings": tilings}, run)
                for name, tilings in named.items()
                for way, run in _whole(shape, tilings).items()
            ],
        )


def _candidates(table: Tilings) -> list[_Candidate]:
    """The table's own first."""
    found = [_Candidate(kernel, tiling) for kernel, tiling in table._asdict().items()]
    if not results.is_tiny():
        found += [
            _Candidate(kernel, Tiling(*each)) for kernel in _KERNELS for each in _GRID[kernel]
        ]
    return list(dict.fromkeys(found))


def _put_times(
    part: str, shape: _Shape, named: list[tuple[dict[str, Any], Callable[..., Any]]]
) -> list[float]:
    """The geometric mean of each one's times, infinite for one that failed; all compile at once."""
    programs = [jax.jit(run) for _, run in named]
    with concurrent.futures.ThreadPoolExecutor(1 if results.is_tiny() else 8) as pool:
        first = [pool.submit(_ready, program, *_arrays(shape, 1)) for program in programs]
        concurrent.futures.wait(first)
    means = []
    for (name, _), program, future in zip(named, programs, first, strict=True):
        line = {"H": shape.H, **name}
        if (failed := future.exception()) is not None:  # the compiler's
            results.put(part, **line, error=results.said(failed))
            means.append(math.inf)
            continue
        ms = [_milliseconds(program, shape, count) for count in _SEGMENTS]
        results.put(part, **line, **{f"ms_{n}": one for n, one in zip(_SEGMENTS, ms, strict=True)})
        means.append(math.prod(ms) ** (1 / len(ms)))
    return means


def _ready(program: Callable[..., Any], *arrays: Any) -> None:
    jax.block_until_ready(program(*arrays))


def _milliseconds(program: Callable[..., Any], shape: _Shape, num_segments: int) -> float:
    arrays = _arrays(shape, num_segments)
    return timing.milliseconds(lambda: program(*arrays), _ROUNDS)


def _fastest(kernel: str, times: dict[_Candidate, float]) -> Tiling:
    return min((one for one in times if one.kernel == kernel), key=lambda one: times[one]).tiling


@functools.cache
def _arrays(shape: _Shape, num_segments: int) -> tuple[Inputs, Backward]:
    T, N, K, H = shape
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(1, T, heads, H) for heads in (N, K, K, N)]
    q, k, v, d_out = map(functools.partial(jax.random.normal, dtype=jnp.bfloat16), keys, shapes)
    segments_BT = jnp.arange(T, dtype=jnp.int32)[None] * num_segments // T + 1
    # Any statistics: what they are takes no time.
    statistics_BNT = jnp.full((1, N, T), 12.0)
    inputs = Inputs(q, k, v, segments_BT, jnp.full(1, T, jnp.int32))
    return inputs, Backward(d_out, statistics_BNT, statistics_BNT)


def _alone(shape: _Shape, candidate: _Candidate) -> Callable[[Inputs, Backward], Any]:
    """One kernel, with what finds its blocks."""
    kernel, tiling = candidate
    static = Static(shape.H**-0.5, windowed=False, interpret=results.is_tiny())
    sizes = (tiling.block_q, tiling.block_k)

    def run(inputs, backward):
        if kernel == "keys":
            visits_BJV = triton_visits.of_keys(inputs.segments_BT, None, sizes)
            return triton_calls.keys_gradient(static, tiling, visits_BJV, inputs, backward)
        visits_BIV = triton_visits.of_queries(inputs.segments_BT, None, sizes)
        if kernel == "queries":
            return triton_calls.queries_gradient(static, tiling, visits_BIV, inputs, backward)
        return triton_calls.forward(static, tiling, visits_BIV, inputs)

    return run


def _whole(shape: _Shape, tilings: Tilings) -> dict[str, Callable[[Inputs, Backward], Any]]:
    """The back end's call, forward alone and with its gradients."""
    form = AttentionForm(scale=shape.H**-0.5)

    def call(segments_BT, q, k, v):
        seen = Visibility(segments_BT, segments_BT)
        kv, tiny = KeysAndValues(k, v), results.is_tiny()
        return triton.attend(q, kv, seen, form, interpret=tiny, tilings=tilings)

    def forward(inputs, _):
        return call(inputs.segments_BT, *inputs[:3])

    def both(inputs, backward):
        _, back = jax.vjp(lambda *qkv: call(inputs.segments_BT, *qkv), *inputs[:3])
        return back(backward.d_out_BTNH)

    return {"forward": forward, "both": both}
