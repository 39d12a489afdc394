"""Adafactor: of a matrix' squared gradients the means of rows and columns alone are kept.

Source: arXiv:1804.04235, as transformers trains with it: alg. 4 with update clipping, no momentum,
and the learning rate as it is given (scale_parameter and relative_step off). optax's own takes a
parameter's two longest dimensions for the matrix; of stacked leaves these may be layers or heads.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsft.training.optimizer import Optimizer, by_leaf
from jaxsft.training.optimizers.sides import Sides, sides

_DECAY_EXPONENT = 0.8  # sec. 7.2
_EPS = 1e-30  # alg. 4
_LONGEST = 1.0  # root mean square of an update; sec. 6


class Factors(NamedTuple):
    """Means of squared gradients; of a vector the first is the squares themselves."""

    steps: jax.Array
    rows: jax.Array
    columns: jax.Array | None


def adafactor() -> Optimizer:
    """Adafactor, for each layer's and expert's parameters by themselves."""
    return by_leaf(lambda name, ndim: _of_leaf(sides(name, ndim), "layers" in name.split(".")))


def _of_leaf(of: Sides | None, stacked: bool) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        zero = jnp.zeros_like(params, jnp.float32)
        if of is None:
            return Factors(jnp.int32(0), zero, None)
        rows, columns = (jnp.sum(zero, dims, keepdims=True) for dims in (of.outs, of.ins))
        return Factors(jnp.int32(0), rows, columns)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grad, steps = updates, state.steps + 1
        decay = 1.0 - steps.astype(jnp.float32) ** -_DECAY_EXPONENT
        squares = jnp.square(grad) + _EPS

        def mean(before: jax.Array, dims: tuple[int, ...]) -> jax.Array:
            now = jnp.mean(squares, dims, keepdims=True) if dims else squares
            return decay * before + (1.0 - decay) * now

        if of is None:
            rows, columns = mean(state.rows, ()), None
            update = grad * jax.lax.rsqrt(rows)
        else:
            rows, columns = mean(state.rows, of.outs), mean(state.columns, of.ins)
            shares = rows / jnp.mean(rows, of.ins, keepdims=True)
            update = grad * jax.lax.rsqrt(shares) * jax.lax.rsqrt(columns)
        inside = tuple(range(int(stacked), grad.ndim)) if of is None else of.ins + of.outs
        rms = jnp.sqrt(jnp.mean(jnp.square(update), inside, keepdims=True))
        return update / jnp.maximum(1.0, rms / _LONGEST), Factors(steps, rows, columns)

    return optax.GradientTransformation(init, update)
