"""The programs of flash attention for GPUs, in Pallas: forward, and two kernels for gradients.

Each holds one block in registers and loops over the blocks of the other kind that it has to visit.
The loop is there twice: without a mask for blocks of which everything is seen. A gradient is a sum
in a fixed order by one program, so it has the same bits each time.

Source: arXiv:2307.08691 (FlashAttention-2), algorithms 1 and 2, the latter cut in two so that no
program adds to what another one writes.

B: batch row, T: position, N: query heads, K: key-value heads, H: head_dim, P: query heads of a
program, I / J: block of queries / keys, V: a number of a block's visits, Q / C: query / key in its
block.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxsft.kernels.attention.triton_tiling import Tiling

# Where a query's maximum starts. Finite, so that it can be taken from a hidden logit, which is not:
# a compiler that rounds a product and a difference in one step would make of the difference of two
# equal huge products something far from 0.
_LOWEST = -1e30
_LOG2_E = math.log2(math.e)
_dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)


class Static(NamedTuple):
    """What is known of a call before it runs."""

    scale: float
    windowed: bool
    interpret: bool

    @property
    def scale_2(self) -> float:
        """Of logits to the base 2, whose powers a GPU computes faster."""
        return self.scale * _LOG2_E


class Inputs(NamedTuple):
    """What all three read: arrays outside of a program, and in it references to blocks of them."""

    q_BTNH: Any
    k_BTKH: Any
    v_BTKH: Any
    segments_BT: Any
    window_1: Any  # anything without windows


class Backward(NamedTuple):
    """What the gradients' programs read beyond the inputs."""

    d_out_BTNH: Any
    lse_BNT: Any  # log-sum-exp of a query's logits, to the base 2
    mean_BNT: Any  # what the softmax takes from the gradient of each of a query's logits alike


def attention_forward(
    static: Static, tiling: Tiling, visits: Any, inputs: Inputs, out: Any, lse: Any
):
    """Writes the output and the log-sum-exp of a block of queries."""
    i = _last_first(1)
    q_QH = inputs.q_BTNH[...]

    def step(_, j, mask, sums):
        max_Q, total_Q, out_QH = sums
        keys = pl.ds(j * tiling.block_k, tiling.block_k)
        logits_QC = _dot(q_QH, inputs.k_BTKH[keys].T)
        if mask:
            seen_QC = _seen(static, tiling, inputs, (i, j), 0)
            logits_QC = jnp.where(seen_QC, logits_QC, -jnp.inf)
        new_Q = jnp.maximum(max_Q, jnp.max(logits_QC, axis=1) * static.scale_2)
        shares_QC = _exp2(static, logits_QC * static.scale_2 - new_Q[:, None])
        shrink_Q = _exp2(static, max_Q - new_Q)
        v_CH = inputs.v_BTKH[keys]
        out_QH = out_QH * shrink_Q[:, None] + _dot(shares_QC.astype(v_CH.dtype), v_CH)
        return new_Q, total_Q * shrink_Q + jnp.sum(shares_QC, axis=1), out_QH

    zero_Q = jnp.zeros(q_QH.shape[0], jnp.float32)
    start = (zero_Q + _LOWEST, zero_Q, jnp.zeros(q_QH.shape, jnp.float32))
    max_Q, total_Q, out_QH = _each_visit(visits, 1, step, start)
    out[...] = (out_QH / total_Q[:, None]).astype(out.dtype)
    lse[...] = max_Q + jnp.log2(total_Q)


def attention_queries_gradient(
    static: Static, tiling: Tiling, visits: Any, inputs: Inputs, backward: Backward, d_q: Any
):
    """Writes the gradient of a block of queries."""
    i = _last_first(1)
    q_QH, d_out_QH = inputs.q_BTNH[...], backward.d_out_BTNH[...]
    lse_Q1, mean_Q1 = backward.lse_BNT[...][:, None], backward.mean_BNT[...][:, None]

    def step(_, j, mask, d_q_QH):
        keys = pl.ds(j * tiling.block_k, tiling.block_k)
        k_CH = inputs.k_BTKH[keys]
        shares_QC = _exp2(static, _dot(q_QH, k_CH.T) * static.scale_2 - lse_Q1)
        if mask:
            seen_QC = _seen(static, tiling, inputs, (i, j), 0)
            shares_QC = jnp.where(seen_QC, shares_QC, 0.0)
        d_logits_QC = shares_QC * (_dot(d_out_QH, inputs.v_BTKH[keys].T) - mean_Q1)
        return d_q_QH + _dot(d_logits_QC.astype(k_CH.dtype), k_CH)

    d_q_QH = _each_visit(visits, 1, step, jnp.zeros(q_QH.shape, jnp.float32))
    d_q[...] = (d_q_QH * static.scale).astype(d_q.dtype)


def attention_keys_gradient(
    static: Static,
    tiling: Tiling,
    visits: Any,
    inputs: Inputs,
    backward: Backward,
    d_k: Any,
    d_v: Any,
):
    """Writes the gradients of a block of keys and its values, from P of the heads that read them.

    Logits lie transposed, so that each product takes its first factor from registers.
    """
    j = pl.program_id(1)
    k_CH, v_CH = inputs.k_BTKH[...], inputs.v_BTKH[...]

    def step(head, i, mask, sums):
        d_k_CH, d_v_CH = sums
        queries = pl.ds(i * tiling.block_q, tiling.block_q)
        q_QH = inputs.q_BTNH[queries, head]
        d_out_QH = backward.d_out_BTNH[queries, head]
        lse_1Q = backward.lse_BNT[head, queries][None]
        mean_1Q = backward.mean_BNT[head, queries][None]
        shares_CQ = _exp2(static, _dot(k_CH, q_QH.T) * static.scale_2 - lse_1Q)
        if mask:
            seen_CQ = _seen(static, tiling, inputs, (i, j), 1)
            shares_CQ = jnp.where(seen_CQ, shares_CQ, 0.0)
        d_v_CH += _dot(shares_CQ.astype(d_out_QH.dtype), d_out_QH)
        d_logits_CQ = shares_CQ * (_dot(v_CH, d_out_QH.T) - mean_1Q)
        return d_k_CH + _dot(d_logits_CQ.astype(q_QH.dtype), q_QH), d_v_CH

    zero_CH = jnp.zeros(k_CH.shape, jnp.float32)
    num_heads = inputs.q_BTNH.shape[1]
    d_k_CH, d_v_CH = _each_visit(visits, num_heads, step, (zero_CH, zero_CH))
    d_k[...] = (d_k_CH * static.scale).astype(d_k.dtype)
    d_v[...] = d_v_CH.astype(d_v.dtype)


def _exp2(static: Static, power_x: jax.Array) -> jax.Array:
    """2 to such a power in one instruction, 0 where that is below the least normal number.

    `jnp.exp2` becomes four there, for numbers that are lost in any sum with the greatest share, 1.
    """
    if static.interpret:
        return jnp.exp2(power_x)
    (result_x,) = plgpu.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[power_x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(power_x.shape, power_x.dtype)],
    )
    return result_x


def _last_first(axis: int) -> jax.Array:
    """The number of this program's block, counted from a row's end."""
    return pl.num_programs(axis) - 1 - pl.program_id(axis)


def _each_visit(visits: Any, num_heads: int, step: Callable[..., Any], sums: Any) -> Any:
    """Folds step(head, block, mask, sums) over what a program visits, first without a mask.

    One loop goes over heads and blocks: loading ahead does not stop from one head to the next.
    """
    first, whole_first, whole_end, end = (visits[number] for number in range(4))
    num_before, num_whole = whole_first - first, whole_end - whole_first
    num_masked = end - first - num_whole

    def cut(number, count):
        if num_heads == 1:
            return 0, number
        return jax.lax.div(number, count), jax.lax.rem(number, count)

    def whole(number, sums):
        head, place = cut(number, num_whole)
        return step(head, whole_first + place, False, sums)

    def masked(number, sums):
        head, place = cut(number, num_masked)
        block = first + place + jnp.where(place < num_before, 0, num_whole)
        return step(head, block, True, sums)

    sums = jax.lax.fori_loop(0, num_whole * num_heads, whole, sums)
    return jax.lax.fori_loop(0, num_masked * num_heads, masked, sums)


def _seen(static: Static, tiling: Tiling, inputs: Inputs, pair: tuple[Any, Any], q_axis: int):
    """Which query of a pair of blocks sees which key of it, with the queries along `q_axis`."""

    def side(block, size, axis):
        places = block * size + jnp.arange(size)
        segments = inputs.segments_BT[pl.ds(block * size, size)]
        return jnp.expand_dims(places, 1 - axis), jnp.expand_dims(segments, 1 - axis)

    q_places, q_segments = side(pair[0], tiling.block_q, q_axis)
    kv_places, kv_segments = side(pair[1], tiling.block_k, 1 - q_axis)
    seen = (q_segments == kv_segments) & (q_places >= kv_places)
    if static.windowed:
        seen &= q_places - kv_places < inputs.window_1[0]
    return seen
