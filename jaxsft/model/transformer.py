"""The decoder: embedding, layers scanned over stacked parameters, final norm, head.

L: layer (stacked leaf), B: batch row, T: position, S: cache slot, D: embed_dim, V: vocab_size.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.devices.mesh import constrain
from jaxsft.model import parameter, rope, settings
from jaxsft.model.attention import Attention, Context, KeyValueCache, LayerPlace
from jaxsft.model.gradient_slot import with_slots
from jaxsft.model.mlp import Mlp
from jaxsft.model.moe import Moe, RouterStats
from jaxsft.model.norm import Norm
from jaxsft.model.remat import remat as rematerialised
from jaxsft.model.settings import Block


class Layer(nnx.Module):
    def __init__(self, s: settings.DecoderSettings, *, rngs: nnx.Rngs):
        self.settings = s
        self.attention = Attention(s, rngs=rngs)
        if s.moe is None:
            self.mlp = Mlp(s, rngs=rngs)
        else:
            self.moe = Moe(s.moe, s.embed_dim, rngs=rngs)
        if s.norms_before:
            self.attention_norm = Norm(s)
            if s.block is not Block.PARALLEL_ONE_NORM:
                self.mlp_norm = Norm(s)
        if s.norms_after:
            self.attention_out_norm, self.mlp_out_norm = Norm(s), Norm(s)

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: KeyValueCache | None, place: LayerPlace
    ) -> tuple[jax.Array, KeyValueCache | None, RouterStats | None]:
        s = self.settings
        in_BTD = self.attention_norm(x_BTD) if s.norms_before else x_BTD
        out_BTD, cache = self.attention(in_BTD, context, cache, place)
        if s.norms_after:
            out_BTD = self.attention_out_norm(out_BTD)
        between_BTD = x_BTD + s.residual_scale * out_BTD
        between_BTD = constrain(between_BTD, "batch", "sequence", "activation_embed")
        if s.block is not Block.PARALLEL_ONE_NORM:
            in_BTD = between_BTD if s.block is Block.SEQUENTIAL else x_BTD
            in_BTD = self.mlp_norm(in_BTD) if s.norms_before else in_BTD
        routed = None
        if s.moe is None:
            out_BTD = self.mlp(in_BTD)
        else:
            out_BTD, routed = self.moe(in_BTD, context.segments_BT)
        if s.norms_after:
            out_BTD = self.mlp_out_norm(out_BTD)
        x_BTD = between_BTD + s.residual_scale * out_BTD
        return constrain(x_BTD, "batch", "sequence", "activation_embed"), cache, routed


class Decoder(nnx.Module):
    """A causal language model; `model(tokens)` gives float32 logits.

    `layers` is one Layer whose leaves are stacked: they have a leading dimension L.
    """

    def __init__(
        self,
        s: settings.DecoderSettings,
        *,
        rngs: nnx.Rngs,
        dtype: str = "float32",
        remat: str = "none",
        unroll_layers: int = 1,
    ):
        self.settings = s
        self.source: str | None = None  # where load_model read it, for save_model
        self.dtype = dtype
        self.remat, self.unroll_layers = remat, unroll_layers
        V, D = s.vocab_size, s.embed_dim
        self.embedding_VD = parameter.matrix(rngs, s.init_stddev, (V, D), ("vocab", "embed"))
        self.layers = _stacked_layers(s, rngs)
        self.final_norm = Norm(s)
        if not s.tied_embeddings:
            self.head_DV = parameter.matrix(rngs, s.init_stddev, (D, V), ("embed", "vocab"))

    def __call__(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
    ) -> jax.Array:
        """Unnormalised log-probabilities of the next token, float32 [B, T, V].

        Args:
            tokens_BT: int32 token ids in [0, V).
            segments_BT: int32; a token sees earlier ones of its segment only. None: one segment.
            positions_BT: int32 position of each token in its segment. None: 0, 1, 2...
        """
        hidden_BTD = self.hidden(tokens_BT, segments_BT, positions_BT)
        return self._logits(hidden_BTD)

    def hidden(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
    ) -> jax.Array:
        """What the head turns into logits before their soft cap; [B, T, D] in model dtype."""
        return self.hidden_and_routing(tokens_BT, segments_BT, positions_BT)[0]

    def hidden_and_routing(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        layer_slots: Any = None,
    ) -> tuple[jax.Array, RouterStats | None]:
        """`hidden`, and what the routers did, by layer; None for a model without experts.

        Args:
            layer_slots: where the gradients of the stacked layers go; None: to the layers.
        """
        if segments_BT is None:
            segments_BT = jnp.ones_like(tokens_BT)
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        inputs = (tokens_BT, segments_BT, positions_BT)
        hidden_BTD, _, routed = self._run(*inputs, None, layer_slots)
        return hidden_BTD, routed

    def extend(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array,
        positions_BT: jax.Array,
        cache: KeyValueCache,
    ) -> tuple[jax.Array, KeyValueCache]:
        """Float32 logits [B, V] after the last of T new tokens, and the cache that holds them."""
        start = (0, cache.length)
        segments_BS = jax.lax.dynamic_update_slice(cache.segments_BS, segments_BT, start)
        cache = dataclasses.replace(cache, segments_BS=segments_BS)
        hidden_BTD, new, _ = self._run(tokens_BT, segments_BT, positions_BT, cache)
        assert new is not None
        new = dataclasses.replace(new, length=cache.length + tokens_BT.shape[1])
        return self._logits(hidden_BTD[:, -1:])[:, 0], new

    def empty_cache(self, batch: int, slots: int) -> KeyValueCache:
        """Room for `slots` tokens; ropes that depend on the length take it for the length.

        So all tokens are turned alike, also those read before others come.
        """
        s = self.settings
        shape = (s.num_layers, batch, slots, s.num_kv_heads, s.head_dim)
        zeros = jnp.zeros(shape, self.dtype)
        return KeyValueCache(zeros, zeros, jnp.zeros((batch, slots), jnp.int32), jnp.int32(0))

    def head(self) -> jax.Array:
        """The output projection in its own dtype: [D, V], or the embedding [V, D] when tied."""
        return parameter.whole(self._head())

    def _head(self) -> nnx.Param[jax.Array]:
        return self.embedding_VD if self.settings.tied_embeddings else self.head_DV

    def _logits(self, hidden_BTD: jax.Array) -> jax.Array:
        equation = "BTD,VD->BTV" if self.settings.tied_embeddings else "BTD,DV->BTV"
        logits_BTV = parameter.product(
            equation, hidden_BTD, self._head(), preferred_element_type=jnp.float32
        )
        cap = self.settings.logit_soft_cap
        logits_BTV = logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)
        if not self.settings.num_padding:
            return logits_BTV
        is_token_V = jnp.arange(logits_BTV.shape[-1]) < self.settings.num_tokens
        return jnp.where(is_token_V[None, None], logits_BTV, -jnp.inf)

    def _run(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array,
        positions_BT: jax.Array,
        cache: KeyValueCache | None,
        layer_slots: Any = None,
    ) -> tuple[jax.Array, KeyValueCache | None, RouterStats | None]:
        s = self.settings
        # Gathered whole: a lookup in a table split over devices would move every row anyway.
        table_VD = constrain(parameter.whole(self.embedding_VD, self.dtype), None, None)
        x_BTD = s.embedding_scale * table_VD[tokens_BT]
        x_BTD = constrain(x_BTD, "batch", "sequence", "activation_embed")
        context = self._context(segments_BT, positions_BT, cache)
        graphdef, state = nnx.split(self.layers)

        def body(carry, inputs):
            params, slots, place = inputs
            params = params if slots is None else with_slots(params, slots, in_loop=True)
            layer = nnx.merge(graphdef, params)
            x_BTD, cache, routed = layer(carry[0], context, carry[1], place)
            return (x_BTD, cache), routed

        body = rematerialised(body, self.remat)
        inputs = (nnx.to_pure_dict(state), layer_slots, _places(s))
        (x_BTD, cache), routed = jax.lax.scan(
            body, (x_BTD, cache), inputs, unroll=self.unroll_layers
        )
        return s.logit_scale * self.final_norm(x_BTD), cache, routed

    def _context(
        self, segments_BT: jax.Array, positions_BT: jax.Array, cache: KeyValueCache | None
    ) -> Context:
        ropes, lengths_BT = _ropes(self.settings), None
        if any(used is not None and rope.depends_on_length(used) for used in ropes):
            if cache is None:
                lengths_BT = rope.segment_lengths(segments_BT, positions_BT)
            else:
                lengths_BT = jnp.full_like(positions_BT, cache.segments_BS.shape[1])
        turns = rope.rotations(ropes, self.settings.head_dim, positions_BT, lengths_BT)
        return Context(segments_BT, *turns)


def _ropes(s: settings.DecoderSettings) -> list[settings.Rope | None]:
    """Each once."""
    return list(dict.fromkeys(kind.rope for kind in s.kinds()))


def _places(s: settings.DecoderSettings) -> LayerPlace:
    """Of all layers, stacked; what is the same in all of them is given once for all."""
    windows = [kind.window for kind in s.kinds()]
    ropes = [_ropes(s).index(kind.rope) for kind in s.kinds()]
    window = rope_index = None
    if any(windows):
        window = jnp.asarray([w or settings.WIDER_THAN_ANY_ROW for w in windows], jnp.int32)
    if len(set(ropes)) > 1:
        rope_index = jnp.asarray(ropes, jnp.int32)
    return LayerPlace(jnp.arange(s.num_layers), rope_index, window)


def _stacked_layers(s: settings.DecoderSettings, rngs: nnx.Rngs) -> Layer:
    @nnx.split_rngs(splits=s.num_layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs) -> Layer:
        return Layer(s, rngs=rngs)

    return build(rngs)
