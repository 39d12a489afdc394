"""Grouped-query self-attention. D: embed_dim, N: heads, K: key-value heads, H: head_dim.

L: layer, B: batch row, T: query position, S: cache slot, X: N x H.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxsft.devices.mesh import constrain, parts
from jaxsft.kernels.attention import attend as kernel
from jaxsft.kernels.attention import blocks, choose, cudnn, splash, triton
from jaxsft.kernels.attention.form import AttentionForm, KeysAndValues, Use, Visibility
from jaxsft.model import parameter, rope, settings
from jaxsft.model.attention.head_norm import HeadNorm
from jaxsft.model.attention.kinds import AttentionKind, Context, LayerPlace, RunShape
from jaxsft.model.remat import Part

# Of back ends whose products a compiled program doesn't show.
_BLOCK_SIZES = {
    "splash": splash.block_sizes,
    "cudnn": cudnn.block_sizes,
    "triton": triton.block_sizes,
}


_CACHE_AXES = ("layer", "batch", None, "kv_heads", "head_dim")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of the tokens read so far, of the layers of a stack."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array


def attention_form(s: settings.DecoderSettings) -> AttentionForm:
    """What is static of the attention of all layers."""
    return AttentionForm(
        scale=s.head_dim**-0.5 if s.attention_scale is None else s.attention_scale,
        back_end=s.attention_back_end,
        max_segments=s.attention_max_segments,
        windows=s.windows,
        soft_cap=s.attention_soft_cap,
        sinks=s.attention_sinks,
    )


class Attention(nnx.Module):
    def __init__(self, s: settings.DecoderSettings, *, rngs: nnx.Rngs):
        D, N, K, H, std = s.embed_dim, s.num_heads, s.num_kv_heads, s.head_dim, s.init_stddev
        self.settings, self.form = s, attention_form(s)
        self.q_DNH = parameter.matrix(rngs, std, (D, N, H), ("embed", "heads", "head_dim"))
        self.k_DKH = parameter.matrix(rngs, std, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.v_DKH = parameter.matrix(rngs, std, (D, K, H), ("embed", "kv_heads", "head_dim"))
        self.o_NHD = parameter.matrix(
            rngs, std, (N, H, D), ("heads", "head_dim", "embed"), inputs=2
        )
        if s.qkv_bias:
            self.q_bias_NH = parameter.bias((N, H), ("heads", "head_dim"))
            self.k_bias_KH = parameter.bias((K, H), ("kv_heads", "head_dim"))
            self.v_bias_KH = parameter.bias((K, H), ("kv_heads", "head_dim"))
        if s.attention_out_bias:
            self.o_bias_D = parameter.bias((D,), ("norm",))
        if s.qk_norm is not None:
            self.q_norm = HeadNorm(s, N, "heads")
            self.k_norm = HeadNorm(s, K, "kv_heads")
        if s.attention_sinks:
            self.sinks_bias_N = parameter.bias((N,), ("heads",))

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: KeyValueCache | None, place: LayerPlace
    ) -> tuple[jax.Array, KeyValueCache | None]:
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, context, place)
        if cache is None:
            # Whole rows: a device's queries see the keys of all positions before them.
            k_BSKH = constrain(k_BTKH, "batch", None, "kv_heads", "head_dim")
            v_BSKH = constrain(v_BTKH, "batch", None, "kv_heads", "head_dim")
            kv_segments_BS, start = context.segments_BT, 0
        else:
            assert context.slots is not None
            kv_segments_BS, start = context.slots.segments_BS, context.slots.length
            cache = with_tokens(cache, place.index, start, k_BTKH, v_BTKH)
            k_BSKH, v_BSKH = cache.k_LBSKH[place.index], cache.v_LBSKH[place.index]
        s = self.settings
        form = self.form if cache is None else dataclasses.replace(self.form, back_end="xla")
        sinks_N = self.sinks_bias_N[...] if form.sinks else None
        kv = KeysAndValues(k_BSKH, v_BSKH, sinks_N)
        visibility = Visibility(context.segments_BT, kv_segments_BS, start, place.window)
        out_BTNH = kernel.attend(q_BTNH, kv, visibility, form)
        out_BTNH = constrain(out_BTNH, "batch", "sequence", "heads", "head_dim")
        if form.back_end == "xla":  # the others name what their own backward pass needs
            out_BTNH = checkpoint_name(out_BTNH, "context")
        out_BTD = parameter.product("BTNH,NHD->BTD", out_BTNH, self.o_NHD)
        if s.attention_out_bias:
            out_BTD += self.o_bias_D[...].astype(x_BTD.dtype)[None, None]
        return checkpoint_name(out_BTD, "attention_out"), cache

    def _project(
        self, x_BTD: jax.Array, context: Context, place: LayerPlace
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries and keys, normalised and turned by their positions, and values."""
        s = self.settings
        q_BTNH = _heads(x_BTD, self.q_DNH, self.q_bias_NH if s.qkv_bias else None, "heads")
        k_BTKH = _heads(x_BTD, self.k_DKH, self.k_bias_KH if s.qkv_bias else None, "kv_heads")
        v_BTKH = _heads(x_BTD, self.v_DKH, self.v_bias_KH if s.qkv_bias else None, "kv_heads")
        index = 0 if place.rope is None else place.rope
        turns = (context.cos_XBTR[index], context.sin_XBTR[index], s.rope.interleaved)
        if s.qk_norm is None:
            q_BTNH = checkpoint_name(rope.rotate(q_BTNH, *turns), "q")
            k_BTKH = checkpoint_name(rope.rotate(k_BTKH, *turns), "k")
        else:  # the norms' gradients need what the norms are given: turned ones alone won't do
            q_BTNH, k_BTKH = checkpoint_name(q_BTNH, "q"), checkpoint_name(k_BTKH, "k")
            q_BTNH = rope.rotate(self.q_norm(q_BTNH), *turns)
            k_BTKH = rope.rotate(self.k_norm(k_BTKH), *turns)
        return q_BTNH, k_BTKH, checkpoint_name(v_BTKH, "v")


def _heads(
    x_BTD: jax.Array, weight_DNH: nnx.Param, bias_NH: nnx.Param | None, heads: str
) -> jax.Array:
    D, *shape_NH = weight_DNH.shape
    # With heads apart the TPU's compiler turns the whole stack of layers round before their loop.
    out_BTX = parameter.product("BTD,DX->BTX", x_BTD, weight_DNH, seen_as=(D, -1))
    out_BTNH = out_BTX.reshape(*x_BTD.shape[:2], *shape_NH)
    if bias_NH is not None:
        out_BTNH += bias_NH[...].astype(x_BTD.dtype)[None, None]
    return constrain(out_BTNH, "batch", "sequence", heads, "head_dim")


def with_tokens(
    cache: KeyValueCache, layer: jax.Array, slot: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array
) -> KeyValueCache:
    """The cache with one layer's new keys and values from a slot on."""
    start = (layer, 0, slot, 0, 0)
    k_LBSKH = jax.lax.dynamic_update_slice(cache.k_LBSKH, k_BTKH[None], start)
    v_LBSKH = jax.lax.dynamic_update_slice(cache.v_LBSKH, v_BTKH[None], start)
    return KeyValueCache(constrain(k_LBSKH, *_CACHE_AXES), constrain(v_LBSKH, *_CACHE_AXES))


def _empty_cache(
    s: settings.DecoderSettings, num_layers: int, batch: int, slots: int, dtype: str
) -> KeyValueCache:
    zeros = jnp.zeros((num_layers, batch, slots, s.num_kv_heads, s.head_dim), dtype)
    zeros = constrain(zeros, *_CACHE_AXES)
    return KeyValueCache(zeros, zeros)


def _weights(s: settings.DecoderSettings) -> Mapping[Part, int]:
    return {
        Part.MIXING_IN: s.embed_dim * (s.num_heads + 2 * s.num_kv_heads) * s.head_dim,
        Part.MIXING_OUT: s.num_heads * s.head_dim * s.embed_dim,
    }


def _mixing_products(
    s: settings.DecoderSettings, window: int | None, tokens: int, pairs: Mapping[int | None, int]
) -> int:
    """A query times a key, and its share times a value, for each pair and head."""
    del tokens
    return 2 * s.num_heads * s.head_dim * pairs[window]


def _with_back_end(
    s: settings.DecoderSettings, asked: str, run: RunShape, device: Any
) -> tuple[settings.DecoderSettings, str, str]:
    if run.max_segments is not None:
        s = dataclasses.replace(s, attention_max_segments=run.max_segments)
    name, reason = choose.choose(asked, _use(s, run), device)
    return dataclasses.replace(s, attention_back_end=name), name, reason


def _needed_pairs(s: settings.DecoderSettings, run: RunShape, segment_length: float) -> float:
    sizes_of = _BLOCK_SIZES.get(s.attention_back_end)
    if sizes_of is None:
        return 1.0  # XLA's own products
    use = _use(s, run)
    return blocks.needed_share(use, segment_length, sizes_of(use))


def _use(s: settings.DecoderSettings, run: RunShape) -> Use:
    num_heads, num_kv_heads = kernel.local_heads(
        s.num_heads, s.num_kv_heads, parts("heads", run.mesh_sizes)
    )
    return Use(
        form=attention_form(s),
        platform=run.platform,
        length=run.length,
        query_length=run.length // parts("sequence", run.mesh_sizes),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=s.head_dim,
        dtype=run.dtype,
    )


GROUPED_QUERIES = AttentionKind(
    module=Attention,
    saved={
        Part.MIXING_IN: ("q", "k", "v"),
        Part.MIXED: ("context",),
        Part.MIXING_OUT: ("attention_out",),
    },
    weights=_weights,
    mixing_products=_mixing_products,
    mixed_dims=lambda s: s.num_heads * s.head_dim,
    turned_dims=lambda s: s.head_dim,
    read_by_others=lambda s: 2 * s.num_kv_heads * s.head_dim,
    empty_cache=_empty_cache,
    pair_dims=lambda s: s.num_heads,
    back_ends=tuple(kernel.BACK_ENDS),
    with_back_end=_with_back_end,
    needed_pairs=_needed_pairs,
)
