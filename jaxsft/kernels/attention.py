"""Causal attention among the tokens of one segment.

B: batch row, T / S: query / key position, N: query heads, K: key-value heads, G: N // K,
H: head_dim.
"""

import jax
import jax.numpy as jnp

from jaxsft.errors import ConfigError

BACK_ENDS = ("xla",)


def choose(name: str) -> tuple[str, str]:
    """The back end that `name` stands for on this hardware, and why.

    Raises:
        ConfigError: a back end that is not there.
    """
    if name == "auto":
        return "xla", "the reference; the only back end yet"
    if name not in BACK_ENDS:
        raise ConfigError(f"config.model.attention={name}: expected auto or {', '.join(BACK_ENDS)}")
    return name, "asked for by config.model.attention"


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array,
    kv_segments_BS: jax.Array,
    first_query: jax.Array | int = 0,
) -> jax.Array:
    """Each query's mean of its own segment's values up to it, weighted by softmax(qk / sqrt(H)).

    Args:
        q_segments_BT: int32; padding (0) attends to padding, so that no row is empty.
        first_query: key position of query 0, more than 0 when decoding with a cache.

    Returns:
        [B, T, N, H] in the dtype of q; logits and softmax are float32.
    """
    num_kv_heads, head_dim = k_BSKH.shape[2:]
    batch, length = q_BTNH.shape[:2]
    q_BTKGH = q_BTNH.reshape(batch, length, num_kv_heads, -1, head_dim) * head_dim**-0.5
    logits_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    q_slots_T = first_query + jnp.arange(length)
    causal_TS = q_slots_T[:, None] >= jnp.arange(k_BSKH.shape[1])[None, :]
    same_BTS = q_segments_BT[:, :, None] == kv_segments_BS[:, None, :]
    mask_BTS = causal_TS[None] & same_BTS
    lowest = jnp.finfo(jnp.float32).min
    logits_BKGTS = jnp.where(mask_BTS[:, None, None], logits_BKGTS, lowest)
    shares_BKGTS = jax.nn.softmax(logits_BKGTS, axis=-1).astype(v_BSKH.dtype)
    out_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", shares_BKGTS, v_BSKH)
    return out_BTKGH.reshape(q_BTNH.shape)
