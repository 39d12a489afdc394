"""An optimizer as the step, the mesh and the plan see it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec

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
    # Gradients, zero where nothing trains: their norm is to count no others.
    trained_part: Callable[[Params], Params] = lambda grads: grads
    # (the state, the parameters after the update) -> the state after it.
    moved: Callable[[Any, Params], Any] = lambda state, params: state
    # (the state, the trained parameters) -> those that evaluations and exports take.
    result: Callable[[Any, Params], Params] = lambda state, params: params

    def bytes_per_parameter(self, shapes: Params) -> float:
        """Of the state, over all of these parameters; for the plan."""
        state = jax.tree.leaves(jax.eval_shape(self.init, shapes))
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in state if leaf.ndim)
        return held / sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


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

    return Optimizer(transform.init, transform.update, placement)


def by_leaf(choose: Callable[[str, int], optax.GradientTransformation]) -> Optimizer:
    """The optimizer that gives each parameter a transformation of its own.

    Args:
        choose: from the dotted path of a parameter and the number of its dimensions. An array of
            the state has as many, each as long as the parameter's or 1; or none at all.
    """

    def init(params: Any) -> Any:
        return jax.tree.map_with_path(lambda path, leaf: _chosen(path, leaf).init(leaf), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        flat, tree = jax.tree.flatten_with_path(updates)
        states, leaves = tree.flatten_up_to(state), tree.flatten_up_to(params)
        done = [
            _chosen(path, leaf).update(leaf, one, param)
            for (path, leaf), one, param in zip(flat, states, leaves, strict=True)
        ]
        return tree.unflatten(u for u, _ in done), tree.unflatten(one for _, one in done)

    def _chosen(path: Any, leaf: Any) -> optax.GradientTransformation:
        return choose(dotted(path), leaf.ndim)

    def placement(shapes: Params, placed: Params, everywhere: Any) -> Any:
        def of_leaf(shape: Any, sharding: NamedSharding, state: Any) -> Any:
            return jax.tree.map(
                lambda part: _along(part, shape, sharding) if part.ndim else everywhere, state
            )

        return jax.tree.map(of_leaf, shapes, placed, jax.eval_shape(init, shapes))

    return Optimizer(init, update, placement)


def dotted(path: Any) -> str:
    """A parameter's name: "layers.mlp.down_FD"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _along(part: Any, shape: Any, sharding: NamedSharding) -> NamedSharding:
    """Where an array lies whose dimensions are a parameter's, or 1."""
    spec = tuple(sharding.spec) + (None,) * (shape.ndim - len(sharding.spec))
    sizes = zip(part.shape, shape.shape, spec, strict=True)
    assert all(size in (1, whole) for size, whole in zip(part.shape, shape.shape, strict=True))
    kept = (axes if size == whole else None for size, whole, axes in sizes)
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))
