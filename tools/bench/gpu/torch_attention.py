"""Attention alone in torch, forward and backward, on the sizes of the part `attention`.

sdpa_causal, sdpa_cudnn: whole rows, whatever their segments. varlen: FlashAttention over segments,
with the key-value heads as they are, or repeated beforehand. flex: compiled, over segments.
B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from bench.gpu import attention_work, results

_NUM_TRIES, _NUM_CALLS = 3, 20


class _Case(NamedTuple):
    q_BTNH: torch.Tensor
    k_BTKH: torch.Tensor
    v_BTKH: torch.Tensor
    ids_T: np.ndarray  # the segment of each position, in every row


Call = Callable[[], torch.Tensor]


class _Way(NamedTuple):
    make: Callable[[_Case], tuple[Call, tuple[torch.Tensor, ...]]]  # with what it differentiates
    dense: bool = False  # segments make no difference
    needs_gpu: bool = False


def measure() -> None:
    for name, way in _WAYS.items():
        if way.needs_gpu and _device() != "cuda":
            continue
        for B, T in attention_work.sizes():
            for count in (1,) if way.dense else attention_work.SEGMENTS:
                _put(name, way, B, attention_work.segment_ids(T, count))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _put(name: str, way: _Way, B: int, ids_T: np.ndarray) -> None:
    line: dict[str, Any] = {"B": B, "T": len(ids_T), "segments": int(ids_T[-1])}
    try:
        ms, first_s = _timed(way, B, ids_T)
        line |= {"ms": ms, "tflops": attention_work.tflops(B, ids_T, ms), "compile_s": first_s}
    except Exception as error:  # each library has its own kinds
        line["error"] = results.said(error)
    results.put("attn", name=f"torch_{name}", **line)


def _timed(way: _Way, B: int, ids_T: np.ndarray) -> tuple[float, float]:
    """Milliseconds of a call, and the seconds that the first one took."""
    N, K, H = attention_work.heads()
    torch.manual_seed(0)
    arrays = (_normal(B, len(ids_T), heads, H) for heads in (N, K, K))
    call, inputs = way.make(_Case(*arrays, ids_T))
    since = time.perf_counter()
    out = call()
    cotangent = torch.randn_like(out)

    def gradients() -> Any:
        return torch.autograd.grad(call(), inputs, cotangent)

    gradients()
    _wait()
    first_s = time.perf_counter() - since
    return _milliseconds(gradients), first_s


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device=_device(), requires_grad=True)


def _wait() -> None:
    if _device() == "cuda":
        torch.cuda.synchronize()


def _milliseconds(run: Callable[[], Any]) -> float:
    """Of one call of some that are dispatched together; the best of some tries."""
    taken = []
    for _ in range(_NUM_TRIES):
        since = time.perf_counter()
        for _ in range(_NUM_CALLS):
            run()
        _wait()
        taken.append((time.perf_counter() - since) * 1e3 / _NUM_CALLS)
    return min(taken)


def _sdpa(case: _Case) -> tuple[Call, tuple[torch.Tensor, ...]]:
    inputs = case[:3]

    def call() -> torch.Tensor:
        q_BNTH, k_BKTH, v_BKTH = (array.transpose(1, 2) for array in inputs)
        return functional.scaled_dot_product_attention(
            q_BNTH, k_BKTH, v_BKTH, is_causal=True, enable_gqa=True
        )

    return call, inputs


def _sdpa_cudnn(case: _Case) -> tuple[Call, tuple[torch.Tensor, ...]]:
    any_back_end, inputs = _sdpa(case)

    def call() -> torch.Tensor:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return any_back_end()

    return call, inputs


def _varlen(case: _Case, repeated: bool) -> tuple[Call, tuple[torch.Tensor, ...]]:
    from torch.nn.attention.varlen import varlen_attn  # an older torch lacks it

    q_BTNH, k_BTKH, v_BTKH = (array.detach() for array in case[:3])
    if repeated:
        times = q_BTNH.shape[2] // k_BTKH.shape[2]
        k_BTKH, v_BTKH = (array.repeat_interleave(times, 2) for array in (k_BTKH, v_BTKH))
    inputs = tuple(array.flatten(0, 1).requires_grad_() for array in (q_BTNH, k_BTKH, v_BTKH))
    lengths = np.tile(np.bincount(case.ids_T)[1:], len(q_BTNH))
    starts = torch.as_tensor(np.r_[0, lengths.cumsum()], dtype=torch.int32, device=_device())
    longest = int(lengths.max())

    def call() -> torch.Tensor:
        found = varlen_attn(*inputs, starts, starts, longest, longest, window_size=(-1, 0))
        assert isinstance(found, torch.Tensor)
        return found

    return call, inputs


def _flex(case: _Case) -> tuple[Call, tuple[torch.Tensor, ...]]:
    inputs = case[:3]
    B, T = case.q_BTNH.shape[:2]
    segments_BT = torch.as_tensor(case.ids_T, device=_device()).expand(B, T)

    def visible(b, h, t, s):
        return (t >= s) & (segments_BT[b, t] == segments_BT[b, s])

    mask = create_block_mask(visible, B, None, T, T, device=_device())
    attend: Any = _compiled_flex() if _device() == "cuda" else flex_attention  # for a test

    def call() -> torch.Tensor:
        q_BNTH, k_BKTH, v_BKTH = (array.transpose(1, 2) for array in inputs)
        return attend(q_BNTH, k_BKTH, v_BKTH, block_mask=mask, enable_gqa=True)

    return call, inputs


@functools.cache
def _compiled_flex() -> Any:
    """Whole, so that what torch does not compile is an error, not attention over a dense mask."""
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


# One after another: a compiler may take the rest of the time.
_WAYS = {
    "sdpa_causal": _Way(_sdpa, dense=True),
    "sdpa_cudnn": _Way(_sdpa_cudnn, dense=True, needs_gpu=True),
    "varlen": _Way(functools.partial(_varlen, repeated=False), needs_gpu=True),
    "varlen_repeated": _Way(functools.partial(_varlen, repeated=True), needs_gpu=True),
    "flex": _Way(_flex, needs_gpu=True),  # which has no backward pass elsewhere
}
