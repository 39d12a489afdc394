"""Muon: for each matrix of a layer the orthogonal matrix nearest to its momentum; AdamW for others.

Source: kellerjordan.github.io/posts/muon, whose momentum PyTorch has too. optax's own divides the
momentum by what is missing of it in the first steps, which is another direction. An update is as
long as AdamW's usually are (arXiv:2502.16982 sec. 2.2), so that one learning rate serves both.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxsft import config
from jaxsft.training.optimizer import Optimizer, by_leaf
from jaxsft.training.optimizers.sides import Sides, is_table, sides

_RMS_OF_ADAMW = 0.2  # of its updates, typically; arXiv:2502.16982 eq. 4


class Momentum(NamedTuple):
    mean: jax.Array


def muon(optim: config.Optim) -> Optimizer:
    """Muon for the matrices of layers, those of each layer and expert by themselves."""
    adam = optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps)

    def choose(name: str, ndim: int) -> optax.GradientTransformation:
        found = None if is_table(name) else sides(name, ndim)
        return adam if found is None else _of_matrices(found, optim.muon_momentum)

    return by_leaf(choose)


def _of_matrices(of: Sides, decay: float) -> optax.GradientTransformation:
    numbers = contrib.MuonDimensionNumbers(of.ins, of.outs)
    # Without momentum of its own it only orthogonalises.
    orthogonal = contrib.scale_by_muon(
        beta=0.0, nesterov=False, weight_dimension_numbers=lambda _: numbers
    )

    def init(params: Any) -> Any:
        return Momentum(jnp.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        grad = updates
        mean = decay * state.mean + (1 - decay) * grad
        ahead = decay * mean + (1 - decay) * grad  # Nesterov's
        direction: Any = orthogonal.update(ahead, orthogonal.init(ahead))[0]
        longest = max(math.prod(grad.shape[dim] for dim in side) for side in of)
        return _RMS_OF_ADAMW * math.sqrt(longest) * direction, Momentum(mean)

    return optax.GradientTransformation(init, update)
