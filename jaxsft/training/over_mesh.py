"""The step and the evaluation over a mesh: where their arrays lie, what memory they reuse."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from jaxsft.devices import mesh as mesh_lib
from jaxsft.kernels.loss.form import LossForm
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model.state import Params, split
from jaxsft.training.batch import Batch, with_firsts
from jaxsft.training.loss import loss_sums
from jaxsft.training.step import Changing, Recipe, StepMetrics, TrainState, train_step


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """`state, metrics = train_step(state, batch)`, by a program for the devices of a mesh.

    The memory of the old state's trained parameters and optimizer is reused for the new ones.
    """

    # (Changing, frozen, teacher, Batch) -> (Changing, StepMetrics); under jit, or compiled
    program: Any

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        changing, metrics = self.program(state.changing, state.frozen, state.teacher, batch)
        return TrainState.of(changing, state.frozen, state.teacher), metrics

    def lower(self, state: TrainState, batch: Batch) -> Any:
        """The program for arrays of these shapes and places, to be compiled."""
        return self.program.lower(state.changing, state.frozen, state.teacher, batch)


def jit_train_step(recipe: Recipe, placement: TrainState, mesh: Mesh) -> TrainStep:
    """The training step, compiled when it is first called."""

    def run(
        changing: Changing, frozen: Params, teacher: Params | None, batch: Batch
    ) -> tuple[Changing, StepMetrics]:
        state, metrics = train_step(recipe, TrainState.of(changing, frozen, teacher), batch)
        return state.changing, metrics

    rows, replicated = batch_sharding(mesh), mesh_lib.sharding(mesh)
    program = jax.jit(
        run,
        in_shardings=(placement.changing, placement.frozen, placement.teacher, rows),
        out_shardings=(placement.changing, replicated),
        donate_argnums=0,
    )
    return TrainStep(program)


def jit_eval_step(
    graphdef: nnx.GraphDef, form: LossForm, placement: Params, mesh: Mesh, num_sources: int = 1
) -> Callable[[Params, Batch], Sums]:
    """The loss sums of one batch, without gradients; compiled when it is first called.

    Those by source, S, are of `num_sources` sources, once for their first tokens of answers, and
    then for all others.
    """
    form = dataclasses.replace(form, num_sources=2 * num_sources)

    def run(params: Params, batch: Batch) -> Sums:
        return loss_sums(graphdef, params, with_firsts(batch, num_sources), form)

    return jax.jit(
        run,
        in_shardings=(placement, batch_sharding(mesh)),
        out_shardings=mesh_lib.sharding(mesh),
    )


def state_shardings(recipe: Recipe, shapes: Params, placement: Params, mesh: Mesh) -> TrainState:
    """A NamedSharding for each leaf of the state.

    Args:
        shapes, placement: of all parameters of the model.
    """
    replicated: Any = mesh_lib.sharding(mesh)
    trained, frozen = split(placement, recipe.frozen)
    trained_shapes, _ = split(shapes, recipe.frozen)
    opt_state = recipe.optimizer.placement(trained_shapes, trained, replicated)
    return TrainState(replicated, trained, frozen, opt_state, replicated)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where the [B, T] arrays of a batch lie."""
    return mesh_lib.sharding(mesh, "batch", "sequence")
