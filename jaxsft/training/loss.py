"""Sums and counts of the masked cross-entropy. B: batch row, T: position, D: embed_dim."""

from flax import nnx

from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model.gradient_slot import with_slots
from jaxsft.model.layer_stacks import LAYERS
from jaxsft.model.moe import RouterStats
from jaxsft.model.state import Params
from jaxsft.training.batch import Batch


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
        slots: where the gradients of the parameters go, in their own dtype; those without one get
            none. None: to `params`.
    """
    layer_slots = None
    if slots is not None:
        outside = {name: param for name, param in params.items() if name != LAYERS}
        params = params | with_slots(outside, slots)
        layer_slots = slots.get(LAYERS, {})
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
