"""Sums and counts of the masked cross-entropy. B: batch row, T: position, D: embed_dim."""

import dataclasses

import jax
from flax import nnx

from jaxsft.kernels.cross_entropy import cross_entropy
from jaxsft.kernels.sums import Sums
from jaxsft.model.gradient_slot import with_slots
from jaxsft.model.moe import RouterStats
from jaxsft.model.state import LAYERS, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Packed rows; all arrays are [B, T]."""

    tokens: jax.Array  # int32
    targets: jax.Array  # int32: the next token of the same segment
    segments: jax.Array  # int32; 0 is padding
    positions: jax.Array  # int32, from 0 in each segment
    weights: jax.Array  # float32: loss weight of the target; 0 where there is none
    sources: jax.Array | None = None  # int32: which source of a mixture the target is from


def loss_sums(
    graphdef: nnx.GraphDef, params: Params, batch: Batch, num_sources: int | None = None
) -> Sums:
    """Weighted sums over the batch's targets, not divided by anything."""
    return loss_and_routing(graphdef, params, batch, num_sources)[0]


def loss_and_routing(
    graphdef: nnx.GraphDef,
    params: Params,
    batch: Batch,
    num_sources: int | None = None,
    slots: Params | None = None,
) -> tuple[Sums, RouterStats | None]:
    """`loss_sums`, and what the routers of a mixture of experts did with the batch's tokens.

    Args:
        slots: where the gradients of the parameters go, in their own dtype; None: to `params`.
    """
    layer_slots = None
    if slots is not None:
        outside = {name: slot for name, slot in slots.items() if name != LAYERS}
        params = params | with_slots({name: params[name] for name in outside}, outside)
        layer_slots = slots[LAYERS]
    model = nnx.merge(graphdef, params)
    hidden_BTD, routing = model.hidden_and_routing(
        batch.tokens, batch.segments, batch.positions, layer_slots
    )
    sums: Sums = cross_entropy(
        hidden_BTD,
        model.head(),
        batch.targets,
        batch.weights,
        model.settings.num_tokens,
        batch.sources,
        num_sources,
        model.settings.logit_soft_cap,
        model.settings.tied_embeddings,
    )
    return sums, routing
