"""AdamW whose moments of matrices are kept in 8 bits a number; vectors keep float32.

The update is made of both moments in float32; they are rounded between steps only.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsft import config
from jaxsft.training.optimizer import Optimizer, by_leaf
from jaxsft.training.optimizers.codes import Code, Coded, decoded, encoded, zeros
from jaxsft.training.optimizers.sides import Sides, sides

_MEAN = Code(power=2, signed=True, salt=0)
# The root of a square is as fine as the mean: 4e-3 of it near the largest of its row and column,
# 4e-2 at a hundredth of that. The least square that is kept is 2e-10 of the largest; it is never
# rounded to 0, by which the update would be divided.
_SQUARES = Code(power=4, signed=False, salt=1)


class Moments(NamedTuple):
    steps: jax.Array
    mean: Coded
    squares: Coded


def adamw_8bit(optim: config.Optim) -> Optimizer:
    """AdamW with codes for moments, without the decay."""
    adam = optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps)

    def choose(name: str, ndim: int) -> optax.GradientTransformation:
        found = sides(name, ndim)
        return adam if found is None else _of_matrices(found, optim)

    return by_leaf(choose)


def _of_matrices(of: Sides, optim: config.Optim) -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return Moments(jnp.int32(0), zeros(params, of, _MEAN), zeros(params, of, _SQUARES))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grad, steps = updates, state.steps + 1
        mean = optim.b1 * decoded(state.mean, _MEAN) + (1 - optim.b1) * grad
        squares = optim.b2 * decoded(state.squares, _SQUARES) + (1 - optim.b2) * jnp.square(grad)
        whole_mean, whole_squares = (
            moment / (1 - decay ** steps.astype(jnp.float32))
            for moment, decay in ((mean, optim.b1), (squares, optim.b2))
        )
        new = Moments(steps, encoded(mean, of, _MEAN, steps), encoded(squares, of, _SQUARES, steps))
        return whole_mean / (jnp.sqrt(whole_squares) + optim.eps), new

    return optax.GradientTransformation(init, update)
