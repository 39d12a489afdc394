"""Sums and counts of the masked cross-entropy. B: batch row, T: position, D: embed_dim."""

from flax import nnx

from jaxsft.kernels.loss.chunks import AllSums
from jaxsft.kernels.loss.cross_entropy import cross_entropy
from jaxsft.kernels.loss.form import LossForm, Targets, TeacherOutputs, TeacherTargets
from jaxsft.kernels.loss.sums import SegmentSums, Sums
from jaxsft.model.gradient_slot import with_slots
from jaxsft.model.layer_stacks import LAYERS
from jaxsft.model.moe import RouterStats
from jaxsft.model.state import Params, model_of
from jaxsft.training.batch import Batch


def loss_sums(graphdef: nnx.GraphDef, params: Params, batch: Batch, form: LossForm) -> Sums:
    """Weighted sums over the batch's targets, not divided by anything."""
    return loss_and_routing(graphdef, params, batch, form)[0]


def segment_sums(
    graphdef: nnx.GraphDef, params: Params, batch: Batch, form: LossForm
) -> SegmentSums:
    """The sums of each segment of the batch; the form has `num_segments`."""
    found = _all_sums(graphdef, params, batch, form, None, None)[0][1]
    assert found is not None, "a form without segments"
    return found


def loss_and_routing(
    graphdef: nnx.GraphDef,
    params: Params,
    batch: Batch,
    form: LossForm,
    slots: Params | None = None,
    teacher: TeacherOutputs | TeacherTargets | None = None,
) -> tuple[Sums, RouterStats | None]:
    """`loss_sums`, and what the routers of a mixture of experts did with the batch's tokens.

    Args:
        slots: where the gradients of the parameters go, in their own dtype; those without one get
            none. None: to `params`.
        teacher: what it has for the same batch, where the form has a teacher.
    """
    sums, routing = _all_sums(graphdef, params, batch, form, slots, teacher)
    return sums[0], routing


def _all_sums(
    graphdef: nnx.GraphDef,
    params: Params,
    batch: Batch,
    form: LossForm,
    slots: Params | None,
    teacher: TeacherOutputs | TeacherTargets | None,
) -> tuple[AllSums, RouterStats | None]:
    layer_slots = None
    if slots is not None:
        outside = {name: param for name, param in params.items() if name != LAYERS}
        params = params | with_slots(outside, slots)
        layer_slots = slots.get(LAYERS, {})
    model = model_of(graphdef, params)
    hidden_BTD, routing = model.hidden_and_routing(
        batch.tokens_BT, batch.segments_BT, batch.positions_BT, layer_slots, batch.keys_BT
    )
    targets = Targets(
        batch.targets_BT,
        batch.weights_BT,
        batch.sources_BT,
        batch.segments_BT,
        batch.objective_weights_BT,
        teacher,
    )
    return cross_entropy(hidden_BTD, model.head(), targets, form), routing


def routing_of(graphdef: nnx.GraphDef, params: Params, batch: Batch) -> RouterStats | None:
    """What `loss_and_routing` says of the routers, without the loss."""
    model = model_of(graphdef, params)
    inputs = batch.tokens_BT, batch.segments_BT, batch.positions_BT
    return model.hidden_and_routing(*inputs, None, batch.keys_BT)[1]
