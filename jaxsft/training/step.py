"""The training step: state and batch in, new state and metrics out.

A: micro-batch, B: batch row, T: position.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxsft.devices import mesh as mesh_lib
from jaxsft.errors import MeshError
from jaxsft.kernels.loss.form import LossForm
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model.moe import RouterStats
from jaxsft.model.state import Params
from jaxsft.training.batch import Batch
from jaxsft.training.loss import loss_and_routing, loss_sums
from jaxsft.training.optim import Schedule

Totals = tuple[Sums, RouterStats | None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training changes; with (config, data) it determines the rest of the run."""

    step: jax.Array  # int32: batches consumed, which is also the data position
    params: Params
    opt_state: Any
    skipped_steps: jax.Array  # int32: updates left out by the guard


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
    sums: Sums
    routing: RouterStats | None  # by layer; None: no mixture of experts
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    skipped_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The static parts of a step."""

    graphdef: nnx.GraphDef
    optimizer: optax.GradientTransformation
    schedule: Schedule
    microbatches: int
    max_grad_norm: float | None
    loss_form: LossForm
    gradient_dtype: str = "float32"


def init_state(recipe: Recipe, params: Params) -> TrainState:
    return TrainState(jnp.int32(0), params, init_opt_state(recipe, params), jnp.int32(0))


def init_opt_state(recipe: Recipe, params: Params) -> Any:
    """Moments of zero, in the optimizer's dtypes whatever the parameters'."""
    return recipe.optimizer.init(_wide(params))


def _wide(params: Params) -> Params:
    """In float32, in which updates are made: a bfloat16 moment would round its changes away."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def train_step(recipe: Recipe, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    """One optimizer step on the global batch.

    The update is left out, bit for bit, where loss or gradients are not finite or no target has
    weight; `step` counts on, so that data and schedule go their way.
    """
    (sums, routing), grads = gradient_sums(recipe, state.params, batch)
    # One factor for weight and clipping: gradients scaled in two goes would be held twice.
    factor = 1.0 / jnp.where(sums.weight > 0, sums.weight, 1.0)
    grad_norm = factor * optax.tree.norm(_wide(grads))
    if recipe.max_grad_norm is not None:
        factor *= jnp.minimum(1.0, recipe.max_grad_norm / (grad_norm + 1e-6))
    grads = jax.tree.map(lambda g: factor * g, _wide(grads))
    wide = _wide(state.params)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, wide)
    rate = jnp.asarray(recipe.schedule(state.step), jnp.float32)
    params = jax.tree.map(
        lambda p, u, kept: (p - rate * u).astype(kept.dtype), wide, updates, state.params
    )

    usable = jnp.isfinite(sums.nll) & jnp.isfinite(grad_norm) & (sums.weight > 0)
    keep = functools.partial(jax.tree.map, functools.partial(jnp.where, usable))
    skipped = state.skipped_steps + jnp.where(usable, 0, 1)
    new_state = TrainState(
        state.step + 1, keep(params, state.params), keep(opt_state, state.opt_state), skipped
    )
    return new_state, StepMetrics(sums, routing, grad_norm, rate, skipped)


def gradient_sums(recipe: Recipe, params: Params, batch: Batch) -> tuple[Totals, Params]:
    """What `loss_and_routing` sums, and the gradient of `nll`, over micro-batches; not divided.

    There is no auxiliary loss of routers: as a product of two means it would not add up over
    micro-batches, and SFT in transformers leaves it off too unless config.json asks for it.
    """

    def nll(slots: Params, part: Batch) -> tuple[jax.Array, Totals]:
        totals = loss_and_routing(recipe.graphdef, params, part, recipe.loss_form, slots)
        return totals[0].nll, totals

    def of_part(part: Batch) -> tuple[Totals, Params]:
        slots = jax.tree.map(lambda p: jnp.zeros_like(p, recipe.gradient_dtype), params)
        (_, totals), grads = jax.value_and_grad(nll, has_aux=True)(slots, part)
        return totals, grads

    if recipe.microbatches == 1:
        return of_part(batch)  # no zeros to add to, which would be as large as the gradients
    parts = jax.tree.map(functools.partial(_split_rows, recipe.microbatches), batch)
    first = jax.tree.map(lambda rows: rows[0], parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_part, first))

    def add_part(sums: tuple[Totals, Params], part: Batch):
        return jax.tree.map(jnp.add, sums, of_part(part)), None

    return jax.lax.scan(add_part, zeros, parts)[0]


def _split_rows(microbatches: int, rows_BT: jax.Array) -> jax.Array:
    """[B, T] as [A, B / A, T]; micro-batch m has rows m, m + A, ...: each device keeps its own."""
    batch, length = rows_BT.shape
    parts = rows_BT.reshape(batch // microbatches, microbatches, length).swapaxes(0, 1)
    return mesh_lib.constrain(parts, None, "batch", "sequence")


def eval_step(graphdef: nnx.GraphDef, form: LossForm, params: Params, batch: Batch) -> Sums:
    """Loss sums of one batch, without gradients."""
    return loss_sums(graphdef, params, batch, form)


def state_shardings(recipe: Recipe, shapes: Params, placement: Params, mesh: Mesh) -> Any:
    """A TrainState of NamedShardings; optimizer moments lie where their parameters lie."""
    replicated = mesh_lib.sharding(mesh)
    opt_shapes = jax.eval_shape(recipe.optimizer.init, shapes)
    opt_placement = optax.tree.map_params(
        recipe.optimizer,
        lambda _, sharding: sharding,
        opt_shapes,
        placement,
        transform_non_params=lambda _: replicated,
    )
    step: Any = replicated
    return TrainState(step, placement, opt_placement, step)


def batch_sharding(mesh: Mesh) -> jax.sharding.NamedSharding:
    return mesh_lib.sharding(mesh, "batch", "sequence")


def check_batch(
    sizes: Mapping[str, int],
    batch_size: int,
    microbatches: int,
    sequence_length: int,
    name: str = "config.train.batch_size",
) -> None:
    """Refuses a batch that the mesh can't split evenly.

    Args:
        name: the field that asks for it.

    Raises:
        MeshError: naming batch_size, microbatches and the devices that share rows.
    """
    shares = mesh_lib.parts("batch", sizes)
    if batch_size % (shares * microbatches):
        over = " x ".join(mesh_lib.RULES["batch"])
        raise MeshError(
            f"{name}={batch_size}: {microbatches} micro-batches over {shares}"
            f" devices ({over}) need a multiple of {shares * microbatches}"
        )
    if sequence_length % mesh_lib.parts("sequence", sizes):
        raise MeshError(
            f"config.data.sequence_length={sequence_length}: config.mesh.context="
            f"{sizes['context']} does not divide it"
        )


def compile_train_step(
    recipe: Recipe, placement: TrainState, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """train_step under jit: sharded over the mesh, the old state's memory reused for the new."""
    rows, replicated = batch_sharding(mesh), mesh_lib.sharding(mesh)
    return jax.jit(
        functools.partial(train_step, recipe),
        in_shardings=(placement, rows),
        out_shardings=(placement, replicated),
        donate_argnums=0,
    )


def compile_eval_step(
    graphdef: nnx.GraphDef, form: LossForm, placement: Params, mesh: Mesh
) -> Callable[[Params, Batch], Sums]:
    return jax.jit(
        functools.partial(eval_step, graphdef, form),
        in_shardings=(placement, batch_sharding(mesh)),
        out_shardings=mesh_lib.sharding(mesh),
    )
