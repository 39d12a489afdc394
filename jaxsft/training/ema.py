"""A mean of the parameters over their last steps, kept in float32 beside the optimizer's state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxsft.model.state import Params
from jaxsft.training.optimizer import Optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Averaged:
    """The state of an optimizer that keeps the mean. Checkpoints know it by these names."""

    optimizer: Any
    mean: Params  # of those that are trained
    steps: jax.Array  # int32: that moved the parameters


def with_mean(optimizer: Optimizer, decay: float, is_result: bool) -> Optimizer:
    """The optimizer, whose state has the exponential mean of the parameters too.

    The first steps decay it less, by (1 + steps) / (10 + steps): else a short run's mean would be
    little else than the base. Source: tf.train.ExponentialMovingAverage with num_updates.

    Args:
        is_result: whether evaluations and exports take the mean.
    """

    def init(params: Any) -> Any:
        mean = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return Averaged(optimizer.init(params), mean, jnp.int32(0))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(updates, state.optimizer, params)
        return updates, dataclasses.replace(state, optimizer=inner)

    def moved(state: Averaged, params: Params) -> Averaged:
        count = state.steps.astype(jnp.float32)
        share = 1.0 - jnp.minimum(decay, (1.0 + count) / (10.0 + count))
        # In this form what does not move keeps its bits.
        mean = jax.tree.map(
            lambda m, p: m + share * (p.astype(jnp.float32) - m), state.mean, params
        )
        return dataclasses.replace(state, mean=mean, steps=state.steps + 1)

    def placement(shapes: Params, placed: Params, everywhere: Any) -> Any:
        return Averaged(optimizer.placement(shapes, placed, everywhere), placed, everywhere)

    def result(state: Averaged, params: Params) -> Params:
        return jax.tree.map(lambda m, p: m.astype(p.dtype), state.mean, params)

    changed = dataclasses.replace(
        optimizer, init=init, update=update, placement=placement, moved=moved
    )
    return dataclasses.replace(changed, result=result) if is_result else changed
