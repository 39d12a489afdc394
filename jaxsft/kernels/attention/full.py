"""The back end `xla`: attention by its definition, with all logits at once.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, G: N // K,
H: head_dim.
"""

import jax
import jax.numpy as jnp

from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Visibility


def attend(
    q_BTNH: jax.Array, kv: KeysAndValues, visibility: Visibility, form: AttentionForm
) -> jax.Array:
    """`kernels.attention.attend` for any lengths, and for keys of a cache."""
    num_kv_heads, head_dim = kv.k_BSKH.shape[2:]
    batch, length = q_BTNH.shape[:2]
    q_BTKGH = q_BTNH.reshape(batch, length, num_kv_heads, -1, head_dim)
    q_BTKGH *= form.scale
    logits_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, kv.k_BSKH, preferred_element_type=jnp.float32
    )
    if form.soft_cap is not None:
        logits_BKGTS = form.soft_cap * jnp.tanh(logits_BKGTS / form.soft_cap)
    mask_BTS = _seen(visibility)
    lowest = jnp.finfo(jnp.float32).min
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS, lowest)
    if kv.sinks_N is None:
        shares_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1)
    else:
        sinks_KG = kv.sinks_N.astype(jnp.float32).reshape(num_kv_heads, -1)
        shares_BKGTS = _softmax_with_sinks(logits_BKGTS, sinks_KG)
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", shares_BKGTS.astype(kv.v_BSKH.dtype), kv.v_BSKH)
    return out_BTKGH.reshape(q_BTNH.shape)


def _seen(visibility: Visibility) -> jax.Array:
    """Whether a query sees a key, bool [B, T, S]."""
    q_segments_BT, kv_segments_BS = visibility.q_segments_BT, visibility.kv_segments_BS
    queries_T = visibility.first_query + jnp.arange(q_segments_BT.shape[1])
    keys_S = jnp.arange(kv_segments_BS.shape[1])
    distance_TS = queries_T[:, None] - keys_S[None, :]
    near_TS = distance_TS >= 0
    if visibility.window is not None:
        near_TS &= distance_TS < visibility.window
    same_BTS = q_segments_BT[:, :, None] == kv_segments_BS[:, None, :]
    return near_TS[None] & same_BTS


def _softmax_with_sinks(logits_BKGTS: jax.Array, sinks_KG: jax.Array) -> jax.Array:
    shape = (*logits_BKGTS.shape[:-1], 1)
    sinks_BKGT1 = jnp.broadcast_to(sinks_KG[None, :, :, None, None], shape)
    joined = jnp.concatenate([logits_BKGTS, sinks_BKGT1], axis=-1)
    return jax.nn.softmax(joined, axis=-1)[..., :-1]
