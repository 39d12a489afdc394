"""The back end `xla`: attention by its definition, with all logits at once.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, G: N // K,
H: head_dim.
"""

import jax
import jax.numpy as jnp


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    kv_segments_BS: jax.Array,
    first_query: jax.Array | int = 0,
    *,
    scale: float | None = None,
    window: jax.Array | int | None = None,
    windows: tuple[int, ...] = (),
    soft_cap: float | None = None,
    sinks_N: jax.Array | None = None,
) -> jax.Array:
    """`kernels.attention.attend`; any lengths, and keys of a cache."""
    del windows  # this mask is made of arrays
    num_kv_heads, head_dim = k_BSKH.shape[2:]
    batch, length = q_BTNH.shape[:2]
    q_BTKGH = q_BTNH.reshape(batch, length, num_kv_heads, -1, head_dim)
    q_BTKGH *= head_dim**-0.5 if scale is None else scale
    logits_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    if soft_cap is not None:
        logits_BKGTS = soft_cap * jnp.tanh(logits_BKGTS / soft_cap)
    mask_TS = _visible(first_query + jnp.arange(length), jnp.arange(k_BSKH.shape[1]), window)
    same_BTS = q_segments_BT[:, :, None] == kv_segments_BS[:, None, :]
    mask_BTS = mask_TS[None] & same_BTS
    lowest = jnp.finfo(jnp.float32).min
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS, lowest)
    if sinks_N is None:
        shares_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1)
    else:
        sinks_KG = sinks_N.astype(jnp.float32).reshape(num_kv_heads, -1)
        shares_BKGTS = _softmax_with_sinks(logits_BKGTS, sinks_KG)
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", shares_BKGTS.astype(v_BSKH.dtype), v_BSKH)
    return out_BTKGH.reshape(q_BTNH.shape)


def _visible(q_slots_T: jax.Array, slots_S: jax.Array, window: jax.Array | int | None) -> jax.Array:
    distance_TS = q_slots_T[:, None] - slots_S[None, :]
    return distance_TS >= 0 if window is None else (distance_TS >= 0) & (distance_TS < window)


def _softmax_with_sinks(logits_BKGTS: jax.Array, sinks_KG: jax.Array) -> jax.Array:
    shape = (*logits_BKGTS.shape[:-1], 1)
    sinks_BKGT1 = jnp.broadcast_to(sinks_KG[None, :, :, None, None], shape)
    joined = jnp.concatenate([logits_BKGTS, sinks_BKGT1], axis=-1)
    return jax.nn.softmax(joined, axis=-1)[..., :-1]
