"""The loss of each example of a training batch, for a step that was odd.

A: micro-batch, B: batch row, M: segment of a row.
"""

import functools

import jax
import numpy as np

from jaxsft.config import Config
from jaxsft.devices import mesh as mesh_lib
from jaxsft.kernels.loss.form import LossForm
from jaxsft.kernels.loss.sums import SegmentSums
from jaxsft.model.state import Params
from jaxsft.training import over_mesh
from jaxsft.training.batch import Batch, split_rows
from jaxsft.training.job import Job
from jaxsft.training.loss import segment_sums
from jaxsft.training.loss_settings import loss_form


class ExampleLosses:
    """Forward passes over whole batches, a micro-batch at a time, so that they need less memory
    than the step; compiled when first asked for."""

    def __init__(self, config: Config, job: Job):
        program = job.program
        platform = program.mesh.devices.flat[0].platform
        form = loss_form(
            program.settings, num_segments=job.batches.epochs.max_segments, platform=platform
        )
        self._losses = jax.jit(
            functools.partial(_sums, program.recipe.graphdef, form, config.train.microbatches),
            in_shardings=(program.placement.params, over_mesh.batch_sharding(program.mesh)),
            out_shardings=mesh_lib.sharding(program.mesh),
        )

    def of(self, params: Params, batch: Batch) -> np.ma.MaskedArray:
        """float64 [B, M]: mean nats of each segment's targets, masked where none has weight."""
        sums = jax.device_get(self._losses(params, batch))
        nll_BM, weight_BM = (np.asarray(v, np.float64) for v in (sums.nll_BM, sums.weight_BM))
        none_BM = weight_BM == 0
        return np.ma.masked_array(nll_BM / np.where(none_BM, 1, weight_BM), none_BM)


def _sums(graphdef, form: LossForm, microbatches: int, params: Params, batch: Batch) -> SegmentSums:
    if microbatches == 1:
        return segment_sums(graphdef, params, batch, form)
    parts = jax.tree.map(functools.partial(split_rows, microbatches), batch)
    found = jax.lax.map(lambda part: segment_sums(graphdef, params, part, form), parts)
    return jax.tree.map(_joined, found)


def _joined(values_ABM: jax.Array) -> jax.Array:
    """The rows in their order in the batch, as `split_rows` found them."""
    return values_ABM.swapaxes(0, 1).reshape(-1, values_ABM.shape[-1])
