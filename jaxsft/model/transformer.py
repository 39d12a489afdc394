"""The decoder: embedding, layers scanned over stacked parameters, final norm, head.

B: batch row, T: position, S: cache slot, D: embed_dim, V: vocab_size.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsft.devices.mesh import constrain
from jaxsft.model import layer_stacks, layers, noise, parameter, rope, settings
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.attention.kinds import CacheSlots, Context
from jaxsft.model.moe import RouterStats
from jaxsft.model.norm import Norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecoderCache:
    """What is kept of the tokens read so far."""

    slots: CacheSlots
    of_stacks: dict[str, Any]  # by stack of layers, each its kind of attention's own


class Decoder(nnx.Module):
    """A causal language model; `model(tokens)` gives float32 logits.

    `layers` is one Layer whose leaves are stacked: they have a leading dimension L. Where not all
    layers are alike, it has such a Layer for each stack of like ones.
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
        self.layers = layers.make(s, rngs)
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
        keys_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, RouterStats | None]:
        """`hidden`, and what the routers did, by layer; None for a model without experts.

        Args:
            layer_slots: where the gradients of the stacked layers go; None: to the layers.
            keys_BT: of the noise of a training step, as in model.noise; None: no noise.
        """
        if segments_BT is None:
            segments_BT = jnp.ones_like(tokens_BT)
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        inputs = (tokens_BT, segments_BT, positions_BT)
        hidden_BTD, _, routed = self._run(*inputs, None, layer_slots, keys_BT)
        return hidden_BTD, routed

    def extend(
        self,
        tokens_BT: jax.Array,
        segments_BT: jax.Array,
        positions_BT: jax.Array,
        cache: DecoderCache,
    ) -> tuple[jax.Array, DecoderCache]:
        """Float32 logits [B, V] after the last of T new tokens, and the cache that holds them."""
        length, start = cache.slots.length, (0, cache.slots.length)
        segments_BS = jax.lax.dynamic_update_slice(cache.slots.segments_BS, segments_BT, start)
        slots = dataclasses.replace(cache.slots, segments_BS=segments_BS)
        cache = DecoderCache(slots, cache.of_stacks)
        hidden_BTD, of_stacks, _ = self._run(tokens_BT, segments_BT, positions_BT, cache)
        slots = dataclasses.replace(slots, length=length + tokens_BT.shape[1])
        return self._logits(hidden_BTD[:, -1:])[:, 0], DecoderCache(slots, of_stacks)

    def empty_cache(
        self, batch: int, slots: int, text_lengths_B: jax.Array | None = None
    ) -> DecoderCache:
        """Room for `slots` tokens.

        Args:
            text_lengths_B: what ropes that depend on the length take for it, so that all tokens of
                a row are turned alike, also those read before others come; None: `slots`.
        """
        s = self.settings
        if text_lengths_B is None:
            text_lengths_B = jnp.full((batch,), slots, jnp.int32)
        segments_BS = jnp.zeros((batch, slots), jnp.int32)
        return DecoderCache(
            CacheSlots(segments_BS, jnp.int32(0), text_lengths_B),
            {
                stack.name: kind_of(s).empty_cache(s, len(stack.layers), batch, slots, self.dtype)
                for stack in layer_stacks.stacks(s)
            },
        )

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
        cache: DecoderCache | None,
        layer_slots: Any = None,
        keys_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any], RouterStats | None]:
        s = self.settings
        x_BTD = parameter.rows(self.embedding_VD, tokens_BT, self.dtype)
        if s.embedding_noise is not None and keys_BT is not None:
            lengths_BT = rope.segment_lengths(segments_BT, positions_BT)
            x_BTD = noise.noisy(x_BTD, keys_BT, segments_BT, lengths_BT, s.embedding_noise)
        x_BTD = s.embedding_scale * x_BTD
        x_BTD = constrain(x_BTD, "batch", "sequence", "activation_embed")
        context = self._context(segments_BT, positions_BT, None if cache is None else cache.slots)
        context = dataclasses.replace(context, keys_BT=keys_BT)
        scans = layers.Scans(s, self.layers, self.remat, self.unroll_layers)
        caches = {} if cache is None else cache.of_stacks
        x_BTD, caches, routed = scans(x_BTD, context, caches, layer_slots)
        return s.logit_scale * self.final_norm(x_BTD), caches, routed

    def _context(
        self, segments_BT: jax.Array, positions_BT: jax.Array, slots: CacheSlots | None
    ) -> Context:
        ropes, lengths_BT = layers.ropes(self.settings), None
        if any(used is not None and rope.depends_on_length(used) for used in ropes):
            if slots is None:
                lengths_BT = rope.segment_lengths(segments_BT, positions_BT)
            else:
                lengths_BT = jnp.broadcast_to(slots.text_lengths_B[:, None], positions_BT.shape)
        dims = kind_of(self.settings).turned_dims(self.settings)
        turns = rope.rotations(ropes, dims, positions_BT, lengths_BT)
        return Context(segments_BT, *turns, slots)
