"""Floating-point operations of a training step: what the model needs, and with recomputation."""

from jaxsft.data.pack.counts import BatchCounts
from jaxsft.model import moe_settings, settings

# Products of a layer's forward pass that the backward pass forms again, by config.model.remat. The
# last one of a block (down) is never among them: no gradient needs its result. What an attention
# kernel forms again by itself is left out.
RECOMPUTED: dict[str, tuple[str, ...]] = {
    "none": (),
    "save_projections": (),
    "save_attention": ("attention_out", "mlp_in"),
    "save_context": ("qkv", "attention_out", "mlp_in"),
    "full": ("qkv", "attention", "attention_out", "mlp_in"),
}


def training_flops(
    s: settings.DecoderSettings,
    counts: BatchCounts,
    supervised_tokens: float,
) -> float:
    """Operations that training on these tokens needs: no padding, recomputation or masked pairs.

    Six per weight and token: two forward, two for the gradient of the layer's input, two for that
    of the weight. The head on supervised tokens only; attention twelve per pair, head and head_dim.
    Of experts, those that a token uses. Embedding look-ups cost none.
    """
    weights = s.num_layers * sum(_layer_weights(s).values())
    return (
        6 * weights * counts.tokens
        + 6 * s.embed_dim * s.num_tokens * supervised_tokens
        + 12 * _attention_products(s, counts)
    )


def recomputed_flops(s: settings.DecoderSettings, counts: BatchCounts, remat: str) -> float:
    """Operations of the forward pass that a policy of config.model.remat does once more.

    With those of `training_flops` they are what HFU counts.
    """
    again = RECOMPUTED[remat]
    per_layer = sum(weights for part, weights in _layer_weights(s).items() if part in again)
    attention = 4 * _attention_products(s, counts) if "attention" in again else 0
    return 2 * s.num_layers * per_layer * counts.tokens + attention


def _attention_products(s: settings.DecoderSettings, counts: BatchCounts) -> int:
    """Query x key products of numbers, over all layers and heads."""
    pairs = sum(counts.attention_pairs[kind.window] for kind in s.kinds())
    return s.num_heads * s.head_dim * pairs


def _layer_weights(s: settings.DecoderSettings) -> dict[str, int]:
    """Weights of a layer that a token is multiplied with, by part."""
    if s.moe is None:
        down = s.embed_dim * s.mlp_dim
        mlp_in = (2 if s.mlp_gated else 1) * down
    else:
        used = s.moe.experts_per_token * s.moe.expert_mlp_dim + (s.moe.shared_mlp_dim or 0)
        down = s.embed_dim * used
        mlp_in = moe_settings.active_parameters(s.moe, s.embed_dim) - down
    return {
        "qkv": s.embed_dim * (s.num_heads + 2 * s.num_kv_heads) * s.head_dim,
        "attention_out": s.num_heads * s.head_dim * s.embed_dim,
        "mlp_in": mlp_in,
        "down": down,
    }
