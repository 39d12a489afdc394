"""Back ends of attention: the self-test of a run, a stronger one, and times.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import concurrent.futures
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.gpu import attention_calls as calls
from bench.gpu import results, timing
from bench.gpu.attention_calls import Call, Shape

_SHAPES = ((4096, 32, 8, 128), (4096, 32, 8, 64), (4096, 16, 8, 128))
_ODD_SHAPES = ((4096, 16, 8, 256), (1000, 32, 8, 128), (128, 4, 2, 16), (1024, 9, 3, 64))


def measure() -> None:
    """The most telling first: the time of this part may be up before its end."""
    gpu = jax.devices()[0].platform == "gpu"
    names = ("cudnn", "triton", "blocked") if gpu else ("blocked",)
    tiny = results.is_tiny()
    shapes = ((256, 4, 2, 16),) if tiny else _SHAPES
    odd = ((100, 4, 2, 16),) if tiny else _ODD_SHAPES
    _self_tests(shapes[:1], names)
    _strong_tests((*names, "xla"))
    _times(names, gpu)
    _self_tests(shapes[1:], names)
    _self_tests(odd, [name for name in names if name != "blocked"] or names)
    if gpu:
        _self_tests(_SHAPES[:1], ["cudnn"], windows=(1024,))
        _self_tests([(128, 4, 2, 16)], ["triton"], dtype="float32")


def _self_tests(
    shapes: Sequence[Shape],
    names: Sequence[str],
    dtype: str = "bfloat16",
    windows: tuple[int, ...] = (),
) -> None:
    device = jax.devices()[0]
    for shape in shapes:
        for name in names:
            asked = calls.use(shape, device.platform, dtype, windows)
            line = {"name": name, "shape": shape, "dtype": dtype, "windows": windows}
            since = time.time()
            try:
                if refused := calls.refusal(name, asked):
                    results.put("selftest", **line, refused=refused)
                    continue
                found = calls.difference(name, asked, device)
                line |= {"difference": found, "ok": found <= calls.ALLOWED}
            except Exception as error:  # each compiler and library has its own kinds
                line["error"] = results.said(error)
            results.put("selftest", **line, seconds=time.time() - since)


def _strong_tests(names: Sequence[str]) -> None:
    """Rows of different segments, padding, random cotangents; against plain float32."""
    arrays, segments_BT = _strong_example()
    with jax.default_matmul_precision("highest"):
        expected = _outcome(calls.packed("xla"), arrays, segments_BT, "float32")
    for name in names:
        try:
            found = _outcome(calls.packed(name), arrays, segments_BT, "bfloat16")
            again = _outcome(calls.packed(name), arrays, segments_BT, "bfloat16")
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


def _outcome(call: Call, arrays, segments_BT: jax.Array, dtype: str) -> list[np.ndarray]:
    """The output and the gradients of queries, keys and values."""

    def run(q, k, v, cotangent):
        out, back = jax.vjp(lambda q, k, v: call(q, k, v, segments_BT), q, k, v)
        return (out, *back(cotangent))

    given = [jnp.asarray(array, dtype) for array in arrays]
    return [np.asarray(array, np.float32) for array in jax.jit(run)(*given)]


class _Cell(NamedTuple):
    """A row of the table of times: forward and backward of one call on one size."""

    B: int
    T: int
    name: str
    call: Call


def _times(names: Sequence[str], gpu: bool) -> None:
    ways: dict[str, Call] = {name: calls.packed(name) for name in (*names, "xla")}
    if gpu:
        ways |= {
            "cudnn_16": calls.packed("cudnn", 16),
            "cudnn_dense_causal": calls.cudnn_dense,
        }
    tiny = results.is_tiny()
    cells = [
        _Cell(B, T, name, call)
        for B, T in ([(1, 256)] if tiny else [(1, 4096), (4, 4096), (1, 8192)])
        for name, call in ways.items()
        if not (name == "xla" and B * T > 4096) and not (name in ("blocked", "triton") and B > 1)
    ]
    with concurrent.futures.ThreadPoolExecutor(1 if tiny else 6) as pool:
        built = [pool.submit(_compiled, cell) for cell in cells]
        concurrent.futures.wait(built)
    for cell, future in zip(cells, built, strict=True):
        try:
            _time(cell, *future.result())
        except Exception as error:
            line = {"name": cell.name, "B": cell.B, "T": cell.T}
            results.put("attn", **line, error=results.said(error))


def _heads() -> tuple[int, int, int]:
    return (4, 2, 16) if results.is_tiny() else (32, 8, 128)


def _arrays(cell: _Cell) -> list[jax.Array]:
    N, K, H = _heads()
    rng = np.random.default_rng(0)
    shapes = [(cell.B, cell.T, heads, H) for heads in (N, K, K, N)]
    return [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]


def _compiled(cell: _Cell) -> tuple[jax.stages.Compiled, float]:
    """The gradients' program, and the seconds that it took to compile."""

    def loss(q, k, v, cotangent, segments):
        out = cell.call(q, k, v, segments)
        return jnp.vdot(out.astype(jnp.float32), cotangent.astype(jnp.float32))

    since = time.time()
    segments_BT = jnp.ones((cell.B, cell.T), jnp.int32)
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*_arrays(cell), segments_BT)
    return lowered.compile(), time.time() - since


def _time(cell: _Cell, program: jax.stages.Compiled, compile_seconds: float) -> None:
    B, T, name, _ = cell
    N, _, H = _heads()
    arrays = _arrays(cell)
    for count in (1,) if name == "cudnn_dense_causal" else (1, 4, 16):
        ids_T = np.arange(T) * count // T + 1
        segments_BT = jnp.asarray(np.broadcast_to(ids_T, (B, T)), jnp.int32)
        rounds = 2 if name == "blocked" else 20

        def run(segments_BT=segments_BT):
            return program(*arrays, segments_BT)

        ms = timing.milliseconds(run, rounds)
        pairs = B * sum(n * (n + 1) // 2 for n in np.bincount(ids_T).tolist())
        results.put(
            "attn",
            name=name,
            B=B,
            T=T,
            segments=count,
            ms=ms,
            tflops=training_flops(pairs, N, H) / ms / 1e9,
            temp_MiB=program.memory_analysis().temp_size_in_bytes / 2**20,
            compile_s=compile_seconds,
        )


def training_flops(num_pairs: int, num_heads: int, head_dim: int) -> int:
    """Of two products forward and five backward over the (query, key) pairs that see each other."""
    return 2 * 7 * num_pairs * num_heads * head_dim
