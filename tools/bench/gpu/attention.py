"""Back ends of attention: the self-test of a run, a stronger one, and times.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import concurrent.futures
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.gpu import attention_calls as calls
from bench.gpu import attention_work, results, timing
from bench.gpu.attention_calls import Call, Shape

_SHAPES = ((4096, 32, 8, 128), (4096, 32, 8, 64), (4096, 16, 8, 128))
_ODD_SHAPES = ((4096, 16, 8, 256), (1000, 32, 8, 128), (128, 4, 2, 16), (1024, 9, 3, 64))
_BACK_ENDS = ("cudnn", "triton", "blocked", "xla")
_ROOMS = {f"cudnn_{room}": room for room in (2, 4, 16)}  # cuDNN with room for so many segments
_WAYS: dict[str, Call] = (
    {name: calls.packed(name) for name in _BACK_ENDS}
    | {name: calls.packed("cudnn", room) for name, room in _ROOMS.items()}
    | {"cudnn_dense_causal": calls.cudnn_dense}
)
_NUM_COMPILED_AT_ONCE = 6  # a part's time is mostly that of compilers, which take one core each


def measure() -> None:
    """The most telling first: the time of this part may be up before its end."""
    gpu = jax.devices()[0].platform == "gpu"
    tiny = results.is_tiny()
    ways = _chosen(gpu)
    tested = [name for name in ways if name in _BACK_ENDS and name != "xla"]
    shapes = ((256, 4, 2, 16),) if tiny else _SHAPES
    odd = ((100, 4, 2, 16),) if tiny else _ODD_SHAPES
    with concurrent.futures.ThreadPoolExecutor(1 if tiny else _NUM_COMPILED_AT_ONCE) as pool:
        cells = [_Cell(B, T, way) for B, T in attention_work.sizes() for way in ways]
        cells = [cell for cell in cells if not _is_too_slow(cell)]
        built = [pool.submit(_compiled, cell) for cell in cells]
        concurrent.futures.wait(built)  # what compiles would disturb what is timed
        for cell, program in zip(cells, built, strict=True):
            _time(cell, program)
        _self_tests(pool, shapes[:1], tested)
        _strong_tests(pool, (*tested, "xla"))
        _self_tests(pool, shapes[1:], tested)
        _self_tests(pool, odd, [name for name in tested if name != "blocked"] or tested)
        if gpu:
            _self_tests(pool, _SHAPES[:1], ["cudnn"], windows=(1024,))
            _self_tests(pool, [(128, 4, 2, 16)], ["triton"], dtype="float32")


def _chosen(gpu: bool) -> list[str]:
    """ATTENTION=cudnn,blocked names what is tested and timed, out of _WAYS."""
    default = ",".join(("cudnn", "triton", *_ROOMS, "cudnn_dense_causal")) if gpu else "blocked,xla"
    return (os.environ.get("ATTENTION") or default).split(",")


def _self_tests(
    pool: Executor,
    shapes: Sequence[Shape],
    names: Sequence[str],
    dtype: str = "bfloat16",
    windows: tuple[int, ...] = (),
) -> None:
    for shape in shapes:
        for name in names:
            pool.submit(_self_test, name, shape, dtype, windows)


def _self_test(name: str, shape: Shape, dtype: str, windows: tuple[int, ...]) -> None:
    line = {"name": name, "shape": shape, "dtype": dtype, "windows": windows}
    since = time.time()
    try:
        device = jax.devices()[0]
        asked = calls.use(shape, device.platform, dtype, windows)
        if refused := calls.refusal(name, asked):
            results.put("selftest", **line, refused=refused)
            return
        found = calls.difference(name, asked, device)
        line |= {"difference": found, "ok": found <= calls.ALLOWED}
    except Exception as error:  # each compiler and library has its own kinds
        line["error"] = results.said(error)
    results.put("selftest", **line, seconds=time.time() - since)


def _strong_tests(pool: Executor, names: Sequence[str]) -> None:
    """Rows of different segments, padding, random cotangents; against plain float32."""
    arrays, segments_BT = _strong_example()
    with jax.default_matmul_precision("highest"):
        expected, _ = _twice(calls.packed("xla"), arrays, segments_BT, "float32")
    for name in names:
        pool.submit(_strong_test, name, arrays, segments_BT, expected)


def _strong_test(name: str, arrays, segments_BT: jax.Array, expected: list[np.ndarray]) -> None:
    try:
        found, again = _twice(calls.packed(name), arrays, segments_BT, "bfloat16")
        differences = map(timing.relative, expected, found)
        results.put(
            "strong",
            name=name,
            **dict(zip(("out", "dq", "dk", "dv"), differences, strict=True)),
            bitwise_repeatable=all(map(np.array_equal, found, again)),
        )
    except Exception as error:
        results.put("strong", name=name, error=results.said(error))


def _strong_example() -> tuple[list[np.ndarray], jax.Array]:
    """Queries, keys, values and cotangents; and 13, 1, 16, 5 segments (tiny: at most 6)."""
    tiny = results.is_tiny()
    B, T, N, K, H = (2, 128, 4, 2, 16) if tiny else (4, 2048, 16, 4, 128)
    rng = np.random.default_rng(1)
    padded = T - T // 8
    segments_BT = np.zeros((B, T), np.int32)
    for row, num_segments in enumerate((13, 1, 16, 5)[:B]):
        count = min(num_segments, 6) if tiny else num_segments
        cuts = np.sort(rng.choice(np.arange(1, padded), count - 1, replace=False))
        segments_BT[row] = 1 + np.searchsorted(cuts, np.arange(T), side="right")
        if row != 1:
            segments_BT[row, padded + row :] = 0
    arrays = [rng.normal(size=(B, T, heads, H)) for heads in (N, K, K, N)]
    return arrays, jnp.asarray(segments_BT)


def _twice(
    call: Call, arrays, segments_BT: jax.Array, dtype: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The output and the gradients of queries, keys and values, by two runs of one program."""

    def run(q, k, v, cotangent):
        out, back = jax.vjp(lambda q, k, v: call(q, k, v, segments_BT), q, k, v)
        return (out, *back(cotangent))

    given = [jnp.asarray(array, dtype) for array in arrays]
    program = jax.jit(run)
    one, two = program(*given), program(*given)
    return [np.asarray(x, np.float32) for x in one], [np.asarray(x, np.float32) for x in two]


class _Cell(NamedTuple):
    """A row of the table of times: forward and backward of one call on one size."""

    B: int
    T: int
    way: str


def _is_too_slow(cell: _Cell) -> bool:
    """Or too large: xla holds all pairs of positions."""
    B, T, way = cell
    return (way == "xla" and B * T > 4096) or (way == "blocked" and B > 1)


def _shapes(cell: _Cell) -> list[jax.ShapeDtypeStruct]:
    """Of q_BTNH, k_BTKH, v_BTKH and the output's cotangent_BTNH."""
    N, K, H = attention_work.heads()
    return [
        jax.ShapeDtypeStruct((cell.B, cell.T, heads, H), jnp.bfloat16) for heads in (N, K, K, N)
    ]


def _compiled(cell: _Cell) -> tuple[jax.stages.Compiled, float]:
    """The gradients' program, and the seconds that it took to compile."""

    def loss(q, k, v, cotangent, segments):
        out = _WAYS[cell.way](q, k, v, segments)
        return jnp.vdot(out.astype(jnp.float32), cotangent.astype(jnp.float32))

    since = time.time()
    segments_BT = jax.ShapeDtypeStruct((cell.B, cell.T), jnp.int32)
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*_shapes(cell), segments_BT)
    return lowered.compile(), time.time() - since


def _time(cell: _Cell, built: Future) -> None:
    line = {"name": cell.way, "B": cell.B, "T": cell.T}
    try:
        program, compile_seconds = built.result()
        most = 1 if cell.way == "cudnn_dense_causal" else _ROOMS.get(cell.way, 16)
        for count in (count for count in attention_work.SEGMENTS if count <= most):
            found = _timed(cell, program, count)
            results.put("attn", **line, segments=count, **found, compile_s=compile_seconds)
    except Exception as error:
        results.put("attn", **line, error=results.said(error))


def _timed(cell: _Cell, program: jax.stages.Compiled, count: int) -> dict[str, float]:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = _shapes(cell)
    arrays = [
        jax.random.normal(key, one.shape, one.dtype) for key, one in zip(keys, shapes, strict=True)
    ]
    ids_T = attention_work.segment_ids(cell.T, count)
    segments_BT = jnp.asarray(np.broadcast_to(ids_T, (cell.B, cell.T)), jnp.int32)
    rounds = 2 if cell.way == "blocked" else 20
    ms = timing.milliseconds(lambda: program(*arrays, segments_BT), rounds)
    held = program.memory_analysis()
    assert held is not None
    return {
        "ms": ms,
        "tflops": attention_work.tflops(cell.B, ids_T, ms),
        "temp_MiB": held.temp_size_in_bytes / 2**20,
    }
