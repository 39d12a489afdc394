"""The training step: state and batch in, new state and metrics out.

A: micro-batch, B: batch row, T: position.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxsft.kernels.loss.form import LossForm
from jaxsft.kernels.loss.sums import Sums
from jaxsft.model import noise
from jaxsft.model.moe import RouterStats
from jaxsft.model.state import Params, merged, split
from jaxsft.training.batch import Batch, split_rows
from jaxsft.training.loss import loss_and_routing
from jaxsft.training.optimizer import Optimizer
from jaxsft.training.router_loss import RouterLosses, counted, whole_of, with_router_losses
from jaxsft.training.schedule import Schedule
from jaxsft.training.taught import said_by_teacher

Totals = tuple[Sums, RouterStats | None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Changing:
    """What a step changes of the state. A checkpoint holds this, under these names."""

    step: jax.Array  # int32: batches consumed, which is also the data position
    params: Params  # those that are trained
    opt_state: Any
    skipped_steps: jax.Array  # int32: updates left out by the guard


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that training starts a step from; with (config, data) it determines the rest of the run.

    Gradients, optimizer, checkpoints and donation see `trained` alone, the forward pass `params`.
    """

    step: jax.Array
    trained: Params
    frozen: Params  # those that Recipe.frozen names; the same arrays in every state of a run
    opt_state: Any
    skipped_steps: jax.Array
    # The parameters of the model that is learnt from, the same arrays too; None: there is none.
    teacher: Params | None = None

    @property
    def params(self) -> Params:
        """The whole model's."""
        return merged(self.trained, self.frozen)

    @property
    def changing(self) -> Changing:
        return Changing(self.step, self.trained, self.opt_state, self.skipped_steps)

    @classmethod
    def of(cls, changing: Changing, frozen: Params, teacher: Params | None = None) -> "TrainState":
        """The state whose changing part this is."""
        c = changing
        return cls(c.step, c.params, frozen, c.opt_state, c.skipped_steps, teacher)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMetrics:
    sums: Sums
    routing_L: RouterStats | None  # None: no mixture of experts
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    skipped_steps: jax.Array


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The static parts of a step."""

    graphdef: nnx.GraphDef
    optimizer: Optimizer
    schedule: Schedule
    microbatches: int
    max_grad_norm: float | None
    loss_form: LossForm
    gradient_dtype: str = "float32"
    # Parameters that stay as they are, by their dotted paths: the one declaration of which do.
    frozen: frozenset[str] = frozenset()
    routers: RouterLosses | None = None  # that are minimised too
    noise_seed: int | None = None  # of the random numbers of a step; None: it has none
    teacher: nnx.GraphDef | None = None  # whose parameters are TrainState.teacher


def init_state(recipe: Recipe, params: Params) -> TrainState:
    """The state before step 0 of these parameters, all of the model's."""
    trained, frozen = split(params, recipe.frozen)
    opt_state = init_opt_state(recipe, trained)
    return TrainState(jnp.int32(0), trained, frozen, opt_state, jnp.int32(0))


def result_params(recipe: Recipe, state: TrainState) -> Params:
    """The whole model's parameters that evaluations and exports take."""
    return merged(recipe.optimizer.result(state.opt_state, state.trained), state.frozen)


def init_opt_state(recipe: Recipe, trained: Params) -> Any:
    """Moments of zero, in the optimizer's dtypes whatever the parameters'."""
    return recipe.optimizer.init(_wide(trained))


def _wide(params: Params) -> Params:
    """In float32, in which updates are made: a bfloat16 moment would round its changes away."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def train_step(recipe: Recipe, state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
    """One optimizer step on the global batch.

    The update is left out, bit for bit, where the guard says so; `step` counts on, so that data and
    schedule go their way.
    """
    batch = with_keys(recipe, batch, state.step)
    (sums, routing), grads = gradient_sums(recipe, state.params, batch, state.teacher)
    grads = recipe.optimizer.trained_part(grads)
    grads, grad_norm = clipped_mean(recipe, grads, sums.minimised_weight)
    rate = jnp.asarray(recipe.schedule(state.step), jnp.float32)
    new = updated(recipe, state, grads, rate)
    usable = guard(sums, grad_norm)
    keep = functools.partial(jax.tree.map, functools.partial(jnp.where, usable))
    trained, opt_state = keep(new, (state.trained, state.opt_state))
    skipped = state.skipped_steps + jnp.where(usable, 0, 1)
    changed = Changing(state.step + 1, trained, opt_state, skipped)
    new_state = TrainState.of(changed, state.frozen, state.teacher)
    return new_state, StepMetrics(sums, routing, grad_norm, rate, skipped)


def with_keys(recipe: Recipe, batch: Batch, step: jax.Array | int) -> Batch:
    """The batch of this step with keys of random numbers, where the recipe has any."""
    if recipe.noise_seed is None:
        return batch
    assert batch.examples_BT is not None, "a batch without the numbers of its examples"
    keys_BT = noise.token_keys(recipe.noise_seed, step, batch.examples_BT, batch.positions_BT)
    return dataclasses.replace(batch, examples_BT=None, keys_BT=keys_BT)


def clipped_mean(recipe: Recipe, grads: Params, weight: jax.Array) -> tuple[Params, jax.Array]:
    """The gradient of the mean loss, no longer than max_grad_norm, and its norm before that."""
    # One factor for weight and clipping: gradients scaled in two goes would be held twice.
    factor = 1.0 / jnp.where(weight > 0, weight, 1.0)
    grad_norm = factor * optax.tree.norm(_wide(grads))
    if recipe.max_grad_norm is not None:
        factor *= jnp.minimum(1.0, recipe.max_grad_norm / (grad_norm + 1e-6))
    return jax.tree.map(lambda g: factor * g, _wide(grads)), grad_norm


def updated(
    recipe: Recipe, state: TrainState, grads: Params, rate: jax.Array
) -> tuple[Params, Any]:
    """Trained parameters and optimizer state after this gradient, at this learning rate."""
    wide = _wide(state.trained)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, wide)
    trained = jax.tree.map(
        lambda p, u, kept: (p - rate * u).astype(kept.dtype), wide, updates, state.trained
    )
    return trained, recipe.optimizer.moved(opt_state, trained)


def guard(sums: Sums, grad_norm: jax.Array) -> jax.Array:
    """Whether to take the update: loss and gradient are finite, and some target has weight."""
    usable = jnp.isfinite(sums.minimised) & jnp.isfinite(grad_norm)
    return usable & (sums.minimised_weight > 0)


def gradient_sums(
    recipe: Recipe, params: Params, batch: Batch, teacher: Params | None = None
) -> tuple[Totals, Params]:
    """What `loss_and_routing` sums, with what is minimised, and the gradient of that.

    Over micro-batches; not divided.

    Args:
        params: all of the model's; those that are frozen get no gradient.
        teacher: all of the teacher's, where the recipe has one.
    """
    trained, _ = split(params, recipe.frozen)

    def minimised(slots: Params, part: Batch) -> tuple[jax.Array, Totals]:
        said = said_by_teacher(recipe.teacher, teacher, part)
        form = recipe.loss_form
        sums, routing = loss_and_routing(recipe.graphdef, params, part, form, slots, said)
        if recipe.routers is not None:
            sums = with_router_losses(recipe.routers, sums, routing, whole)
        return sums.minimised, (sums, routing)

    def of_part(part: Batch) -> tuple[Totals, Params]:
        slots = jax.tree.map(lambda p: jnp.zeros_like(p, recipe.gradient_dtype), trained)
        (_, totals), grads = jax.value_and_grad(minimised, has_aux=True)(slots, part)
        return totals, grads

    whole = whole_of(recipe.routers, batch)
    if recipe.microbatches == 1:
        return of_part(batch)  # no zeros to add to, which would be as large as the gradients
    parts = jax.tree.map(functools.partial(split_rows, recipe.microbatches), batch)
    whole = counted(whole, recipe.routers, recipe.graphdef, params, parts)
    one = jax.tree.map(lambda rows: jax.ShapeDtypeStruct(rows.shape[1:], rows.dtype), parts)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_part, one))

    def add_part(sums: tuple[Totals, Params], part: Batch):
        return jax.tree.map(jnp.add, sums, of_part(part)), None

    return jax.lax.scan(add_part, zeros, parts)[0]
