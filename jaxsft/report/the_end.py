"""What a run ends with: its last figures, and the parameters that are exported."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from jaxsft.config import Config
from jaxsft.devices import distributed
from jaxsft.errors import CheckpointError, known_to_all
from jaxsft.evaluation.measurer import Measurer
from jaxsft.model.adapter import without_starts
from jaxsft.model.state import Params
from jaxsft.rundir.checkpoint.notes import Best
from jaxsft.rundir.checkpoint.store import CheckpointStore, nested
from jaxsft.rundir.run_files import Outputs
from jaxsft.training import mesh_program
from jaxsft.training.job import Job
from jaxsft.training.saved_state import saved_of
from jaxsft.training.step import TrainState, result_params


@dataclasses.dataclass(frozen=True)
class End:
    """
    Attributes:
        num_steps: that the run did.
        params: to export, those after exported_step.
        figures: of evaluating them.
        why: the run ended before its last step; None: it did not.
    """

    num_steps: int
    params: Params
    exported_step: int
    figures: Mapping[str, float | None]
    best: Best | None = None
    why: str | None = None


def measured(config: Config, job: Job, state: TrainState, out: Outputs, measurer: Measurer) -> End:
    """Evaluates the last state and, where the best step is exported, the parameters after that.

    The optimizer's state is of no use any more.

    Raises:
        CheckpointError: the checkpoint of the best step can't be read.
    """
    end = _measured(config, job, state, out, measurer)
    _delete_but(state.opt_state, kept=end.params)  # what comes now may need its room
    return end


def _delete_but(tree: Any, kept: Params) -> None:
    """A mean of float32 parameters is the optimizer's array and the result's at once."""
    wanted = {id(leaf) for leaf in jax.tree.leaves(kept)}
    for leaf in jax.tree.leaves(tree):
        if id(leaf) not in wanted:
            leaf.delete()


def _measured(config: Config, job: Job, state: TrainState, out: Outputs, measurer: Measurer) -> End:
    last, watch = int(state.step), measurer.watch
    params = result_params(job.program.recipe, state)
    if watch is None:
        figures = measurer.measure(params, "after", last)
        out.metrics.append_last({"step": last} | figures)
        return End(last, params, last, figures)
    losses = measurer.followed(params, last)
    watch.add(last, losses)
    best = last if watch.best is None else watch.best.step
    chosen = best if config.checkpoint.export and config.checkpoint.export_best else last
    if chosen == last:
        figures = measurer.measure(params, "after", last)
        out.metrics.append_last({"step": last} | figures)
    else:
        out.metrics.append_last({"step": last} | losses)
        params = _params_after(config, chosen, job, state, out.store)
        figures = measurer.measure(params, "after", chosen)
    why = None
    if last < job.num_steps:
        why = f"after step {last:,} of {job.num_steps:,}: {watch.said()}"
    out.console.say(*(("best", watch.said()) if why is None else ("end", why)))
    return End(last, params, chosen, figures, watch.best, why)


def _params_after(
    config: Config, step: int, job: Job, state: TrainState, store: CheckpointStore
) -> Params:
    """The model's parameters after an earlier step; `state` is of no use any more."""
    mean = config.optim.ema_decay is not None and config.optim.ema_is_result
    # There may be no room for both.
    jax.tree.map(lambda leaf: leaf.delete(), (state.trained, state.opt_state))
    wanted = mesh_program.abstract_state(job.program)
    wanted = wanted.trained if mean else saved_of(wanted).params
    field = "opt_state.mean" if mean else "params"
    form = jax.tree.map(_float32, wanted) if mean else wanted
    read, digests = distributed.together(
        lambda: (store.read(step, form, field), store.notes(step).digests)
    )
    if (failure := store.verify(nested(field, read), digests)) is not None:
        raise known_to_all(
            CheckpointError(
                f"{store.directory}/{step}: the best step, which is to be exported:"
                f" {failure.cause}; config.checkpoint.export_best=False exports the last"
            )
        )
    trained = jax.tree.map(lambda leaf, kept: leaf.astype(kept.dtype), read, wanted)
    return dataclasses.replace(state, trained=without_starts(trained)[0]).params


def _float32(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, "float32", sharding=leaf.sharding)
