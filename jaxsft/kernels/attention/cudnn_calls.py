"""cuDNN's fused attention as XLA calls it: forward and backward, on packed rows.

These are XLA's own targets, asked for directly: jax's function for them keeps results that no
remat policy can name, and asks a GPU what it can do while it traces, so that no plan can be made
without one.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim, M: segments that a row
may have on average, Z: M + 1, X: B * M.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxsft.devices import xla_flags

# Dimensions (of the left, of the right, batch of the left, batch of the right) that each product
# contracts. XLA reads them, but takes cuDNN's own graph for them.
_FORWARD = {
    "bmm1": (3, 3, (0, 2), (0, 2)),  # BTNH, BSNH -> BNTS
    "bmm2": (3, 1, (0, 1), (0, 2)),  # BNTS, BSNH -> BTNH
}
_BACKWARD = {
    "bmm1_grad_gemm1": (2, 1, (0, 1), (0, 2)),
    "bmm1_grad_gemm2": (3, 1, (0, 1), (0, 2)),
    "bmm2_grad_gemm1": (2, 1, (0, 1), (0, 2)),
    "bmm2_grad_gemm2": (3, 3, (0, 2), (0, 2)),
}
_FORWARD_TARGET = "__cudnn$fmhaSoftmax"
_BACKWARD_TARGET = "__cudnn$fmhaSoftmaxBackward"
_STATISTICS = re.compile(r"f32\[(\d+,\d+,\d+)\]")
_GRADIENT = re.compile(r"= \(\w+\[\d+,\d+,\d+,(\d+)\]")
_ROW_MAJOR_HEADS = (0, 2, 1, 3)  # [B, N, T, H] laid out as [B, T, N, H]


class Spans(NamedTuple):
    """Where the segments of all rows lie, one after another; they leave no position out."""

    lengths_BM: jax.Array  # int32; 0 behind the last segment
    starts_BZ: jax.Array  # int32, from the first row's first token; B * T behind the last segment


class Operands(NamedTuple):
    q_BTNH: jax.Array
    k_BTKH: jax.Array
    v_BTKH: jax.Array
    spans: Spans


class Results(NamedTuple):
    out_BTNH: jax.Array
    statistics_XNT: jax.Array  # float32, for the backward pass


class Static(NamedTuple):
    """What is static of a call."""

    scale: float
    window: int | None


def forward(operands: Operands, static: Static) -> Results:
    q_BTNH, k_BTKH, v_BTKH, spans = operands
    B, T, N, H = q_BTNH.shape
    results = (
        jax.ShapeDtypeStruct((B, N, T, H), q_BTNH.dtype),
        _statistics(q_BTNH, spans),
        jax.ShapeDtypeStruct((0,), jnp.uint8),  # XLA makes its workspace of it
    )
    call = jax.ffi.ffi_call(
        _FORWARD_TARGET,
        results,
        output_layouts=(_ROW_MAJOR_HEADS, None, None),
        custom_call_api_version=2,
        legacy_backend_config=_config(q_BTNH, k_BTKH, spans, static, _FORWARD),
    )
    out_BNTH, statistics_XNT, _ = call(q_BTNH, k_BTKH, v_BTKH, *_described(q_BTNH, k_BTKH, spans))
    return Results(out_BNTH.transpose(0, 2, 1, 3), statistics_XNT)


def backward(
    operands: Operands, results: Results, d_out_BTNH: jax.Array, static: Static
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of queries, keys and values."""
    q_BTNH, k_BTKH, v_BTKH, spans = operands

    def of(array: jax.Array) -> jax.ShapeDtypeStruct:
        B, T, heads, H = array.shape
        return jax.ShapeDtypeStruct((B, heads, T, H), array.dtype)

    call = jax.ffi.ffi_call(
        _BACKWARD_TARGET,
        (of(q_BTNH), of(k_BTKH), of(v_BTKH), jax.ShapeDtypeStruct((0,), jnp.uint8)),
        output_layouts=(*[_ROW_MAJOR_HEADS] * 3, None),
        custom_call_api_version=2,
        legacy_backend_config=_config(q_BTNH, k_BTKH, spans, static, _BACKWARD),
    )
    *gradients, _ = call(
        q_BTNH,
        k_BTKH,
        v_BTKH,
        results.statistics_XNT,
        d_out_BTNH,
        results.out_BTNH,
        *_described(q_BTNH, k_BTKH, spans),
    )
    dq_BTNH, dk_BTKH, dv_BTKH = (array.transpose(0, 2, 1, 3) for array in gradients)
    return dq_BTNH, dk_BTKH, dv_BTKH


def products(attributes: str) -> int | None:
    """Products of T x S x H of an instruction with these attributes; None: it is none of these."""
    if _BACKWARD_TARGET in attributes:
        return 5
    return 2 if _FORWARD_TARGET in attributes else None


def workspace_bytes(program_text: str) -> int:
    """What XLA makes of the empty workspaces in a program that was compiled without a GPU.

    Of the call that needs most: float32 gradients of queries, bfloat16 ones of keys and of values
    for each query head, and a float32 sum, for each segment as many as for a row. Source: what
    XLA took for cuDNN 9.19 on an H200.
    """
    found = (_sizes(line) for line in program_text.splitlines() if _BACKWARD_TARGET in line)
    return max((X * N * T * (8 * H + 4) for X, N, T, H in filter(None, found)), default=0)


def _sizes(instruction: str) -> tuple[int, int, int, int] | None:
    """X, N, T, H of a backward call whose workspace is empty."""
    if "u8[0]" not in instruction:
        return None
    statistics, gradient = _STATISTICS.search(instruction), _GRADIENT.search(instruction)
    assert statistics and gradient, instruction
    X, N, T = map(int, statistics[1].split(","))
    return X, N, T, int(gradient[1])


def _statistics(q_BTNH: jax.Array, spans: Spans) -> jax.ShapeDtypeStruct:
    B, T, N, _ = q_BTNH.shape
    return jax.ShapeDtypeStruct((B * spans.lengths_BM.shape[1], N, T), jnp.float32)


def _described(q_BTNH: jax.Array, k_BTKH: jax.Array, spans: Spans) -> tuple[jax.Array, ...]:
    """Lengths and starts for queries and for keys; starts are counted in numbers, not tokens."""
    q_starts_BZ, k_starts_BZ = (
        spans.starts_BZ * (array.shape[2] * array.shape[3]) for array in (q_BTNH, k_BTKH)
    )
    return spans.lengths_BM, spans.lengths_BM, q_starts_BZ, k_starts_BZ


def _config(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    spans: Spans,
    static: Static,
    products: Mapping[str, tuple[int, int, tuple[int, int], tuple[int, int]]],
) -> str:
    """XLA's description of a call: xla/service/gpu/backend_configs.proto, as JSON."""
    B, T, N, _ = q_BTNH.shape
    attention: dict[str, Any] = {
        "algorithm": {
            "algo_id": "0",
            "math_type": "TENSOR_OP_MATH",
            "tuning_knobs": {"17": "1", "24": "0"},
            "is_cudnn_frontend": True,
            "workspace_size": "0",
        },
        "fmha_scale": static.scale,
        "intermediate_tensor_shape": {
            "element_type": {"bfloat16": "BF16", "float16": "F16"}[q_BTNH.dtype.name],
            "dimensions": [str(size) for size in (B, N, T, k_BTKH.shape[1])],
            "layout": {"minor_to_major": ["3", "2", "1", "0"]},
            "is_dynamic_dimension": [False] * 4,
        },
        "is_flash_attention": True,
        "mask_type": "PADDING_CAUSAL",
        "dropout_rate": 0.0,
        "seed": 42,
        "sliding_window_length": static.window or 0,
        "max_seg_per_batch": spans.lengths_BM.shape[1],
        "is_paged_attention": False,
    }
    if products is _BACKWARD and xla_flags.deterministic():
        # XLA adds it to the first of calls that are alike, and then finds no program for the others
        # (openxla/xla pull request 46500); where it stands already they stay alike.
        attention["force_deterministic"] = True
    for name, (left, right, batch_of_left, batch_of_right) in products.items():
        attention[f"{name}_dot_dimension_numbers"] = {
            "lhs_contracting_dimensions": [str(left)],
            "rhs_contracting_dimensions": [str(right)],
            "lhs_batch_dimensions": [str(one) for one in batch_of_left],
            "rhs_batch_dimensions": [str(one) for one in batch_of_right],
        }
    return json.dumps({"operation_queue_id": "0", "cudnn_fmha_backend_config": attention})
