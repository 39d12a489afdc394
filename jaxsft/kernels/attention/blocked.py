"""The back end `blocked`: block by block with a running softmax, in plain JAX, for any platform.

One loop runs over the pairs of blocks that hold a visible pair of tokens, and over no others: its
length is known at run time only, which a gradient by hand allows. Logits exist for one pair.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, H: head_dim,
I / J: block of queries / keys in a row, X / Y: the same over all rows, Q / C: query / key in its
block, G: N // K, R: a block's queries with all heads of a group (G x Q).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxsft.kernels.attention import blocks
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Visibility

# Measured on CPU between 64 and 512: the fastest for long segments, within 1.4 of it otherwise.
_MAX_BLOCK_SIZE = 256
# Finite: a query may meet blocks without a key for it, whose sums a later block multiplies by 0.
_HIDDEN = -1e30
_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Places:
    """Which query sees which key, block by block; integers."""

    q_segments_XQ: jax.Array
    kv_segments_YC: jax.Array
    first_query: jax.Array
    window: jax.Array | None
    needed_BIJ: jax.Array


def attend(
    q_BTNH: jax.Array, kv: KeysAndValues, visibility: Visibility, form: AttentionForm
) -> jax.Array:
    """`kernels.attention.attend` for any lengths."""
    batch, length, heads, head_dim = q_BTNH.shape
    kv_heads = kv.k_BSKH.shape[2]
    q_size, kv_size = _block_size(length), _block_size(kv.k_BSKH.shape[1])
    q_BTNH *= form.scale
    q_BIQNH = _cut(q_BTNH, q_size)
    q_BIQKGH = q_BIQNH.reshape(*q_BIQNH.shape[:3], kv_heads, -1, head_dim)
    q_BIKGQH = q_BIQKGH.transpose(0, 1, 3, 4, 2, 5)
    q_XKRH = q_BIKGQH.reshape(q_BIKGQH.shape[0] * q_BIKGQH.shape[1], kv_heads, -1, head_dim)
    sinks_KR = None
    if kv.sinks_N is not None:
        sinks_KG = kv.sinks_N.astype(jnp.float32).reshape(kv_heads, -1)
        sinks_KR = jnp.repeat(sinks_KG, q_size, axis=1)
    places = _places(visibility, (q_size, kv_size))
    k_YKCH, v_YKCH = _key_blocks(kv.k_BSKH, kv_size), _key_blocks(kv.v_BSKH, kv_size)
    out_XKRH: Any = _attend(form.soft_cap, q_XKRH, k_YKCH, v_YKCH, sinks_KR, places)
    out_BIQKGH = out_XKRH.reshape(q_BIKGQH.shape).transpose(0, 1, 4, 2, 3, 5)
    return out_BIQKGH.reshape(batch, -1, heads, head_dim)[:, :length]


def _key_blocks(array_BSKH: jax.Array, size: int) -> jax.Array:
    """[Y, K, C, H]."""
    array_BJCKH = _cut(array_BSKH, size)
    return jnp.swapaxes(array_BJCKH.reshape(-1, *array_BJCKH.shape[2:]), 1, 2)


def _block_size(length: int) -> int:
    """Blocks alike and as few as can be."""
    return -(-length // -(-length // _MAX_BLOCK_SIZE))


def _cut(array_BTx: jax.Array, size: int, mode: Any = "constant") -> jax.Array:
    """[B, blocks, size, ...]; the last block is filled up."""
    batch, length, *rest = array_BTx.shape
    filled = jnp.pad(array_BTx, [(0, 0), (0, -length % size), *[(0, 0)] * len(rest)], mode)
    return filled.reshape(batch, -1, size, *rest)


def _places(visibility: Visibility, sizes: tuple[int, int]) -> _Places:
    """The visibility cut into blocks of these sizes, and the pairs of blocks that hold any."""
    first_query, window = visibility.first_query, visibility.window
    # The filling continues the last segment: a query of it sees a key, and no range is stretched.
    q_segments_BIQ = _cut(visibility.q_segments_BT, sizes[0], "edge")
    kv_segments_BJC = _cut(visibility.kv_segments_BS, sizes[1], "edge")
    batch = len(q_segments_BIQ)
    needed_BIJ = jax.vmap(lambda q, kv: blocks.needed(q, kv, first_query, window, sizes))(
        q_segments_BIQ.reshape(batch, -1), kv_segments_BJC.reshape(batch, -1)
    )
    return _Places(
        q_segments_BIQ.reshape(-1, sizes[0]),
        kv_segments_BJC.reshape(-1, sizes[1]),
        jnp.asarray(first_query),
        None if window is None else jnp.asarray(window),
        needed_BIJ,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(soft_cap, q_XKRH, k_YKCH, v_YKCH, sinks_KR, places: _Places) -> Any:
    return _forward(soft_cap, q_XKRH, k_YKCH, v_YKCH, sinks_KR, places)[0]


def _forward_rule(soft_cap, q_XKRH, k_YKCH, v_YKCH, sinks_KR, places: _Places):
    results = _forward(soft_cap, q_XKRH, k_YKCH, v_YKCH, sinks_KR, places)
    out_XKRH, lse_XKR = (checkpoint_name(one, blocks.RESIDUAL_NAME) for one in results)
    return out_XKRH, (q_XKRH, k_YKCH, v_YKCH, sinks_KR, places, out_XKRH, lse_XKR)


def _forward(soft_cap, q_XKRH, k_YKCH, v_YKCH, sinks_KR, places: _Places):
    """The output, and the log-sum-exp of each query's logits."""
    v_YKHC = jnp.swapaxes(v_YKCH, 2, 3)  # XLA:CPU would transpose the greater factor instead

    def body(x, y, hide, sums):
        max_XKR, total_XKR, out_XKHR = sums
        logits_KCR = hide(_logits(soft_cap, q_XKRH[x], k_YKCH[y]))
        max_KR = jnp.maximum(max_XKR[x], jnp.max(logits_KCR, axis=1))
        shares_KCR = jnp.exp(logits_KCR - max_KR[:, None])
        shrink_KR = jnp.exp(max_XKR[x] - max_KR)
        total_KR = total_XKR[x] * shrink_KR + jnp.sum(shares_KCR, axis=1)
        new_KHR = _dot("KHC,KCR->KHR", v_YKHC[y], shares_KCR.astype(v_YKHC.dtype))
        out_KHR = out_XKHR[x] * shrink_KR[:, None] + new_KHR
        return max_XKR.at[x].set(max_KR), total_XKR.at[x].set(total_KR), out_XKHR.at[x].set(out_KHR)

    zero_XKHR = jnp.zeros_like(jnp.swapaxes(q_XKRH, 2, 3), jnp.float32)
    zero_XKR = zero_XKHR[:, :, 0]
    sums = _each_pair(places, body, (zero_XKR + _HIDDEN, zero_XKR, zero_XKHR))
    max_XKR, total_XKR, out_XKHR = sums
    out_XKHR /= total_XKR[:, :, None]
    lse_XKR = max_XKR + jnp.log(total_XKR)
    if sinks_KR is not None:
        lse_XKR, of_keys_XKR = jnp.logaddexp(lse_XKR, sinks_KR[None]), lse_XKR
        out_XKHR *= jnp.exp(of_keys_XKR - lse_XKR)[:, :, None]
    return jnp.swapaxes(out_XKHR, 2, 3).astype(q_XKRH.dtype), lse_XKR


def _backward_rule(soft_cap, residuals, d_out_XKRH):
    q_XKRH, k_YKCH, v_YKCH, sinks_KR, places, out_XKRH, lse_XKR = residuals
    k_YKHC = jnp.swapaxes(k_YKCH, 2, 3)
    # The softmax takes this from the gradient of each of a query's logits alike.
    mean_XKR = jnp.sum(d_out_XKRH.astype(jnp.float32) * out_XKRH.astype(jnp.float32), axis=-1)

    def body(x, y, hide, sums):
        d_q_XKHR, d_k_YKCH, d_v_YKCH = sums
        q_KRH, d_out_KRH = q_XKRH[x], d_out_XKRH[x]
        logits_KCR = _logits(soft_cap, q_KRH, k_YKCH[y])
        shares_KCR = jnp.exp(hide(logits_KCR) - lse_XKR[x][:, None])
        d_shares_KCR = _dot("KCH,KRH->KCR", v_YKCH[y], d_out_KRH)
        d_logits_KCR = shares_KCR * (d_shares_KCR - mean_XKR[x][:, None])
        if soft_cap is not None:
            d_logits_KCR *= 1 - jnp.square(logits_KCR / soft_cap)
        d_logits_KCR = d_logits_KCR.astype(q_KRH.dtype)
        d_q_KHR = _dot("KHC,KCR->KHR", k_YKHC[y], d_logits_KCR)
        d_k_KCH = _dot("KCR,KRH->KCH", d_logits_KCR, q_KRH)
        d_v_KCH = _dot("KCR,KRH->KCH", shares_KCR.astype(q_KRH.dtype), d_out_KRH)
        return d_q_XKHR.at[x].add(d_q_KHR), d_k_YKCH.at[y].add(d_k_KCH), d_v_YKCH.at[y].add(d_v_KCH)

    zero_XKHR = jnp.zeros_like(jnp.swapaxes(q_XKRH, 2, 3), jnp.float32)
    zero_YKCH = jnp.zeros_like(k_YKCH, jnp.float32)
    sums = _each_pair(places, body, (zero_XKHR, zero_YKCH, zero_YKCH))
    d_q_XKHR, d_k_YKCH, d_v_YKCH = sums
    d_sinks_KR = None
    if sinks_KR is not None:
        d_sinks_KR = -jnp.sum(jnp.exp(sinks_KR[None] - lse_XKR) * mean_XKR, axis=0)
    d_q_XKRH = jnp.swapaxes(d_q_XKHR, 2, 3).astype(q_XKRH.dtype)
    return (
        d_q_XKRH,
        d_k_YKCH.astype(k_YKCH.dtype),
        d_v_YKCH.astype(v_YKCH.dtype),
        d_sinks_KR,
        None,
    )


_attend.defvjp(_forward_rule, _backward_rule)


def _logits(soft_cap: float | None, q_KRH: jax.Array, k_KCH: jax.Array) -> jax.Array:
    logits_KCR = _dot("KCH,KRH->KCR", k_KCH, q_KRH)
    return logits_KCR if soft_cap is None else soft_cap * jnp.tanh(logits_KCR / soft_cap)


def _each_pair(places: _Places, body: Callable[..., Any], start: Any) -> Any:
    """Folds body(x, y, hide, value) over the needed pairs of blocks, row by row.

    `hide` takes a pair's logits and lowers those of keys that the query must not see.
    """
    num_q_blocks, num_kv_blocks = places.needed_BIJ.shape[1:]
    q_size, kv_size = places.q_segments_XQ.shape[1], places.kv_segments_YC.shape[1]
    order = jnp.argsort(~places.needed_BIJ.ravel())

    def step(number, value):
        x, j = jnp.divmod(order[number], num_kv_blocks)
        row, i = jnp.divmod(x, num_q_blocks)
        y = row * num_kv_blocks + j
        queries_Q = places.first_query + i * q_size + jnp.arange(q_size)
        distance_CQ = queries_Q[None] - (j * kv_size + jnp.arange(kv_size))[:, None]
        seen_CQ = places.kv_segments_YC[y][:, None] == places.q_segments_XQ[x][None]
        seen_CQ &= distance_CQ >= 0
        if places.window is not None:
            seen_CQ &= distance_CQ < places.window
        return body(x, y, functools.partial(_hide, seen_CQ), value)

    return jax.lax.fori_loop(0, jnp.sum(places.needed_BIJ), step, start)


def _hide(seen_CQ: jax.Array, logits_KCR: jax.Array) -> jax.Array:
    def masked(logits_KCR):
        K, C, R = logits_KCR.shape
        logits_KCGQ = logits_KCR.reshape(K, C, -1, seen_CQ.shape[1])
        return jnp.where(seen_CQ[None, :, None], logits_KCGQ, _HIDDEN).reshape(K, C, R)

    # A branch, also because XLA:CPU fuses a plain mask with the exp behind it, which is then not
    # vectorised: 55 ms instead of 27 for a layer of SmolLM2-135M on 1024 tokens.
    return jax.lax.cond(jnp.all(seen_CQ), lambda logits_KCR: logits_KCR, masked, logits_KCR)
