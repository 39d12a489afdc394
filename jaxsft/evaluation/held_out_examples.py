"""The loss of each held-out example, for what is said of two models on the same examples.

B: batch row, M: segment of a row.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from jaxsft.devices import mesh as mesh_lib
from jaxsft.devices import progress
from jaxsft.model.state import Params
from jaxsft.rundir import reopen
from jaxsft.rundir.workdir import opened
from jaxsft.terminal.console import Console
from jaxsft.training import inputs, over_mesh
from jaxsft.training.batch import Batch
from jaxsft.training.job import Job, set_up
from jaxsft.training.loader import Batches
from jaxsft.training.loss import segment_sums
from jaxsft.training.loss_settings import loss_form


@dataclasses.dataclass(frozen=True)
class ExampleSums:
    """Of the examples of a set, in one order for every model.

    Attributes:
        nll: nats of their targets together.
        weights: of their targets.
    """

    nll: Sequence[float] = ()
    weights: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class HeldOutExamples:
    """
    Attributes:
        sets: by name.
        fingerprints: of their prepared data, by name.
    """

    sets: dict[str, ExampleSums]
    fingerprints: dict[str, str]


@progress.during("evaluating")
def of_run(workdir: str, step: int | None) -> HeldOutExamples:
    """
    Args:
        step: of the checkpoint that is asked; None: the newest.

    Raises:
        CheckpointError: there is none that can be read.
    """
    with opened(workdir, writes=False) as run:
        run.fetch()
        found = reopen.read(run, step)
    config = dataclasses.replace(found.config, distil=None)
    base = inputs.open_model(config, lambda topic, line: None)
    data = inputs.prepare_data(config, base, Console(speaks=False))
    job = set_up(config, base, data)
    with jax.set_mesh(job.program.mesh):
        params = jax.device_put(found.params, job.program.placement.params)
        sets = {name: _sums(job, params, one) for name, one in job.eval_batches.items()}
    return HeldOutExamples(sets, {name: one.fingerprint for name, one in data.eval.items()})


def _sums(job: Job, params: Params, batches: Batches) -> ExampleSums:
    program = job.program
    platform = program.mesh.devices.flat[0].platform
    segments = batches.epochs.max_segments
    form = loss_form(program.settings, num_segments=segments, platform=platform)

    def of_batch(params: Params, batch: Batch):
        return segment_sums(program.recipe.graphdef, params, batch, form)

    jitted = jax.jit(
        of_batch,
        in_shardings=(program.placement.params, over_mesh.batch_sharding(program.mesh)),
        out_shardings=mesh_lib.sharding(program.mesh),
    )
    nll: list[float] = []
    weights: list[float] = []
    for batch, _ in batches.stream(0, batches.epochs.steps_in(1)):
        sums = jax.device_get(jitted(params, batch))
        nll_BM, weight_BM = (np.asarray(v, np.float64) for v in (sums.nll_BM, sums.weight_BM))
        there_BM = weight_BM > 0
        nll += nll_BM[there_BM].tolist()
        weights += weight_BM[there_BM].tolist()
        progress.mark()
    return ExampleSums(nll, weights)
