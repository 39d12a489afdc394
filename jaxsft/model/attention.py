"""Grouped-query self-attention. D: embed_dim, N: heads, K: key-value heads, H: head_dim.

L: layer, B: batch row, T: query position, S: cache slot.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.kernels import attention as kernel
from jaxsft.mesh import constrain
from jaxsft.model import parameter, rope, settings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of the tokens read so far, the same slots in every row."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    segments_BS: jax.Array  # int32; 0 is padding and slots not yet written
    length: jax.Array  # int32 scalar: slots written


@dataclasses.dataclass(frozen=True)
class Context:
    """What all layers share of one batch."""

    segments_BT: jax.Array
    cos_BTh: jax.Array
    sin_BTh: jax.Array


class Attention(nnx.Module):
    def __init__(self, s: settings.Decoder, *, rngs: nnx.Rngs):
        D, N, K, H, std = s.embed_dim, s.num_heads, s.num_kv_heads, s.head_dim, s.init_stddev
        self.q_DNH = parameter.matrix(rngs, std, (D, N, H), ("embed", "heads", "head_dim"))
        self.k_DKH = parameter.matrix(rngs, std, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.v_DKH = parameter.matrix(rngs, std, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.o_NHD = parameter.matrix(rngs, std, (N, H, D), ("heads", "head_dim", "embed"))

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: Cache | None, layer: jax.Array
    ) -> tuple[jax.Array, Cache | None]:
        q_BTNH = self._project(x_BTD, self.q_DNH, "heads")
        k_BTKH = self._project(x_BTD, self.k_DKH, "kv_heads")
        v_BTKH = self._project(x_BTD, self.v_DKH, "kv_heads")
        q_BTNH = rope.rotate(q_BTNH, context.cos_BTh, context.sin_BTh)
        k_BTKH = rope.rotate(k_BTKH, context.cos_BTh, context.sin_BTh)
        if cache is None:
            segments = context.segments_BT
            out_BTNH = kernel.attend(q_BTNH, k_BTKH, v_BTKH, segments, segments)
        else:
            cache = write(cache, layer, k_BTKH, v_BTKH)
            out_BTNH = kernel.attend(
                q_BTNH,
                cache.k_LBSKH[layer],
                cache.v_LBSKH[layer],
                context.segments_BT,
                cache.segments_BS,
                cache.length,
            )
        out_BTNH = constrain(out_BTNH, "batch", "sequence", "heads", "head_dim")
        o_NHD = self.o_NHD[...].astype(x_BTD.dtype)
        return jnp.einsum("BTNH,NHD->BTD", out_BTNH, o_NHD), cache

    def _project(self, x_BTD: jax.Array, weight_DNH: nnx.Param, heads: str) -> jax.Array:
        out_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, weight_DNH[...].astype(x_BTD.dtype))
        return constrain(out_BTNH, "batch", "sequence", heads, "head_dim")


def write(cache: Cache, layer: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> Cache:
    """The cache with one layer's new keys and values after its written slots; `length` stays."""
    start = (layer, 0, cache.length, 0, 0)
    return dataclasses.replace(
        cache,
        k_LBSKH=jax.lax.dynamic_update_slice(cache.k_LBSKH, k_BTKH[None], start),
        v_LBSKH=jax.lax.dynamic_update_slice(cache.v_LBSKH, v_BTKH[None], start),
    )
