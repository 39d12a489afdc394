"""What a teacher has to say of a batch. B: batch row, T: position, U: embed_dim of the teacher."""

from flax import nnx

from jaxsft.kernels.loss.form import TeacherOutputs, TeacherTargets
from jaxsft.model.state import Params, model_of
from jaxsft.training.batch import Batch


def said_by_teacher(
    graphdef: nnx.GraphDef | None, params: Params | None, batch: Batch
) -> TeacherOutputs | TeacherTargets | None:
    """What the batch's rows say that it said, or a forward pass of its own, without noise.

    Nothing of that is differentiated, so nothing of it is kept for a backward pass.

    Args:
        graphdef: None: there is no teacher but in the rows, if at all.
    """
    if batch.teacher_ids_BTX is not None:
        assert batch.teacher_logprobs_BTX is not None
        return TeacherTargets(batch.teacher_ids_BTX, batch.teacher_logprobs_BTX)
    if graphdef is None:
        return None
    assert params is not None, "a teacher without its parameters"
    model = model_of(graphdef, params)
    hidden_BTU = model.hidden(batch.tokens_BT, batch.segments_BT, batch.positions_BT)
    return TeacherOutputs(hidden_BTU, model.head())
