"""Floating-point operations of a training step: what the model needs, and what is beside that."""

from jaxsft.data.pack.balance import RowCost
from jaxsft.data.pack.counts import BatchCounts
from jaxsft.model import moe_settings, settings
from jaxsft.model.attention.choice import kind_of
from jaxsft.model.layer_stacks import stacks
from jaxsft.model.remat import Part, recomputed
from jaxsft.training.untrained import ALL_TRAINS, Untrained


def training_flops(
    s: settings.DecoderSettings,
    counts: BatchCounts,
    supervised_tokens: float,
    untrained: Untrained = ALL_TRAINS,
) -> float:
    """Operations that training on these tokens needs: no padding, recomputation or masked pairs.

    Six per weight and token: two forward, two for the gradient of the layer's input, two for that
    of the weight. So for each product by which attention mixes positions, too; its kind counts
    those. The head on supervised tokens only. Of experts, those that a token uses. Embedding
    look-ups cost none. Frozen weights have no gradient: four; adapters beside them six of theirs.
    """
    layers = 6 * (sum(_weights(s).values()) + untrained.adapters) - 2 * untrained.weights
    head = 6 * s.embed_dim * s.num_tokens - 2 * untrained.head
    return layers * counts.tokens + head * supervised_tokens + 6 * _mixing_products(s, counts)


def forward_flops(
    s: settings.DecoderSettings, counts: BatchCounts, supervised_tokens: float
) -> float:
    """Operations of a forward pass alone over these tokens, as a teacher has it: a third."""
    return training_flops(s, counts, supervised_tokens) / 3


def recomputed_flops(s: settings.DecoderSettings, counts: BatchCounts, remat: str) -> float:
    """Operations of the forward pass that a remat policy does once more.

    With those of `training_flops` they are what HFU counts.
    """
    again = recomputed(remat)
    weights = sum(weights for part, weights in _weights(s).items() if part in again)
    mixing = _mixing_products(s, counts) if Part.MIXED in again else 0
    return 2 * weights * counts.tokens + 2 * mixing


def row_cost(s: settings.DecoderSettings) -> RowCost:
    """What the step does for a row's positions, targets and pairs: the body for padding too."""
    windows = {kind.window for kind in s.kinds()}

    def pair(window: int | None) -> int:
        one = {other: int(other == window) for other in windows}
        return 6 * _mixing_products(s, BatchCounts(0, 0, one, 0))

    return RowCost(
        slot=6 * sum(_weights(s).values()),
        supervised=6 * s.embed_dim * s.num_tokens,
        pair={window: pair(window) for window in windows},
    )


def _mixing_products(s: settings.DecoderSettings, counts: BatchCounts) -> int:
    """Multiplications of numbers, over all layers."""
    of_layer = kind_of(s).mixing_products
    return sum(
        of_layer(s, kind.window, counts.tokens, counts.attention_pairs) for kind in s.kinds()
    )


def _weights(s: settings.DecoderSettings) -> dict[Part, int]:
    """Weights of all layers that a token is multiplied with, by part."""
    found = dict.fromkeys(Part, 0)
    for stack in stacks(s):
        own = {**kind_of(s).weights(s), **_mlp_weights(s, stack.has_experts)}
        for part, weights in own.items():
            found[part] += len(stack.layers) * weights
    return found


def _mlp_weights(s: settings.DecoderSettings, has_experts: bool) -> dict[Part, int]:
    if not has_experts:
        down = s.embed_dim * s.mlp_dim
        return {Part.MLP_IN: (2 if s.mlp_gated else 1) * down, Part.MLP_OUT: down}
    assert s.moe is not None
    used = s.moe.experts_per_token * s.moe.expert_mlp_dim + (s.moe.shared_mlp_dim or 0)
    down = s.embed_dim * used
    rest = moe_settings.active_parameters(s.moe, s.embed_dim) - down
    return {Part.MLP_IN: rest, Part.MLP_OUT: down}
