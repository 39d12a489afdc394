"""The decoder: embedding, layers scanned over stacked parameters, final norm, head.

L: layer (stacked leaf), B: batch row, T: position, S: cache slot, D: embed_dim, V: vocab_size.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.mesh import constrain
from jaxsft.model import parameter, rope, settings
from jaxsft.model.attention import Attention, Cache, Context
from jaxsft.model.mlp import SwiGLU
from jaxsft.model.norm import RMSNorm


class Layer(nnx.Module):
    def __init__(self, s: settings.Decoder, *, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(s.embed_dim, s.norm_eps)
        self.attention = Attention(s, rngs=rngs)
        self.mlp_norm = RMSNorm(s.embed_dim, s.norm_eps)
        self.mlp = SwiGLU(s, rngs=rngs)

    def __call__(
        self, x_BTD: jax.Array, context: Context, cache: Cache | None, layer: jax.Array
    ) -> tuple[jax.Array, Cache | None]:
        out_BTD, cache = self.attention(self.attention_norm(x_BTD), context, cache, layer)
        x_BTD = constrain(x_BTD + out_BTD, "batch", "sequence", "activation_embed")
        x_BTD = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        return constrain(x_BTD, "batch", "sequence", "activation_embed"), cache


class Decoder(nnx.Module):
    """A causal language model; `model(tokens)` gives float32 logits.

    `layers` is one Layer whose leaves are stacked: they have a leading dimension L.
    """

    def __init__(
        self,
        s: settings.Decoder,
        *,
        rngs: nnx.Rngs,
        dtype: str = "float32",
        remat: str = "none",
    ):
        self.settings = s
        self.source: str | None = None  # where load_model read it, for save_model
        self.dtype = dtype
        self.remat = remat
        V, D = s.vocab_size, s.embed_dim
        self.embedding_VD = parameter.matrix(rngs, s.init_stddev, (V, D), ("vocab", "embed"))
        self.layers = _stacked_layers(s, rngs)
        self.final_norm = RMSNorm(D, s.norm_eps)
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
        """The final norm's output, which the head turns into logits; [B, T, D] in model dtype."""
        if segments_BT is None:
            segments_BT = jnp.ones_like(tokens_BT)
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        hidden_BTD, _ = self._run(tokens_BT, segments_BT, positions_BT, None)
        return hidden_BTD

    def extend(
        self, tokens_BT: jax.Array, segments_BT: jax.Array, positions_BT: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Float32 logits [B, V] after the last of T new tokens, and the cache that holds them."""
        start = (0, cache.length)
        segments_BS = jax.lax.dynamic_update_slice(cache.segments_BS, segments_BT, start)
        cache = dataclasses.replace(cache, segments_BS=segments_BS)
        hidden_BTD, new = self._run(tokens_BT, segments_BT, positions_BT, cache)
        assert new is not None
        new = dataclasses.replace(new, length=cache.length + tokens_BT.shape[1])
        return self._logits(hidden_BTD[:, -1:])[:, 0], new

    def empty_cache(self, batch: int, slots: int) -> Cache:
        s = self.settings
        shape = (s.num_layers, batch, slots, s.num_kv_heads, s.head_dim)
        zeros = jnp.zeros(shape, self.dtype)
        return Cache(zeros, zeros, jnp.zeros((batch, slots), jnp.int32), jnp.int32(0))

    def head(self) -> jax.Array:
        """The output projection, [D, V] float32; the embedding transposed when tied."""
        if self.settings.tied_embeddings:
            return self.embedding_VD[...].T
        return self.head_DV[...]

    def _logits(self, hidden_BTD: jax.Array) -> jax.Array:
        head_DV = self.head().astype(self.dtype)
        return jnp.einsum("BTD,DV->BTV", hidden_BTD, head_DV, preferred_element_type=jnp.float32)

    def _run(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array,
        positions_BT: jax.Array,
        cache: Cache | None,
    ) -> tuple[jax.Array, Cache | None]:
        s = self.settings
        # Gathered whole: a lookup in a table split over devices would move every row anyway.
        table_VD = constrain(self.embedding_VD[...].astype(self.dtype), None, None)
        x_BTD = table_VD[tokens_BT]
        x_BTD = constrain(x_BTD, "batch", "sequence", "activation_embed")
        context = Context(segments_BT, *rope.rotations(s.rope, s.head_dim, positions_BT))
        graphdef, stacked = nnx.split(self.layers)

        def body(carry, inputs):
            layer_state, index = inputs
            return nnx.merge(graphdef, layer_state)(carry[0], context, carry[1], index), None

        if self.remat == "full":
            body = jax.checkpoint(body, prevent_cse=False)
        layers = jnp.arange(s.num_layers)
        (x_BTD, cache), _ = jax.lax.scan(body, (x_BTD, cache), (stacked, layers))
        return self.final_norm(x_BTD), cache


def _stacked_layers(s: settings.Decoder, rngs: nnx.Rngs) -> Layer:
    @nnx.split_rngs(splits=s.num_layers)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs) -> Layer:
        return Layer(s, rngs=rngs)

    return build(rngs)
