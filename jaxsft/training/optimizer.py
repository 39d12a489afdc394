"""An optimizer as the step, the mesh and the plan see it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsft.model.state import Params


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Updates for a learning rate of -1; the step multiplies them by -schedule(step).

    The rate stays outside so that a skipped step doesn't shift the schedule.
    """

    init: optax.TransformInitFn
    update: optax.TransformUpdateFn
    # (shapes of the trained parameters, where they lie, where what is on all devices lies) -> where
    # each leaf of the state lies.
    placement: Callable[[Params, Params, Any], Any]
    bytes_per_parameter: Callable[[], float]  # of its state, for the plan


def elementwise(transform: optax.GradientTransformation) -> Optimizer:
    """The optimizer of a transformation that keeps the same numbers for each parameter."""

    def placement(shapes: Params, placed: Params, everywhere: Any) -> Any:
        """Moments lie where their parameters lie."""
        return optax.tree.map_params(
            transform,
            lambda _, sharding: sharding,
            jax.eval_shape(transform.init, shapes),
            placed,
            transform_non_params=lambda _: everywhere,
        )

    def bytes_per_parameter() -> float:
        many = jax.ShapeDtypeStruct((1024,), jnp.float32)
        leaves = jax.tree.leaves(jax.eval_shape(transform.init, {"many": many}))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves if leaf.ndim) / many.size

    return Optimizer(transform.init, transform.update, placement, bytes_per_parameter)
