"""How each parameter trains, around any optimizer: its decay, its share of the rate, its rows."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsft import config
from jaxsft.model.state import Params
from jaxsft.training.optimizer import Optimizer, dotted


@dataclasses.dataclass(frozen=True)
class Treatment:
    """Of one parameter. Arrays have its dimensions, each as long as the parameter's or 1."""

    weight_decay: float  # times the learning rate and lr_factor
    lr_factor: Any = 1.0  # a float or an array
    trained: Any = None  # an array of bool: the others keep their bits. None: all train
    frozen: bool = False  # not among the trained parameters at all
    label: str = "all"  # of the rule that covers it


def by_default(optim: config.Optim) -> Callable[[str], Treatment]:
    """The treatment of each parameter where no rule covers any."""
    return lambda name: Treatment(optim.weight_decay if decays(name) else 0.0)


def decays(name: str) -> bool:
    """Whether weight decay acts on a parameter by default: not on norms' scales, nor on biases."""
    return not any(part in name for part in ("scale", "bias", "magnitude"))


def treated(optimizer: Optimizer, of: Callable[[str], Treatment]) -> Optimizer:
    """The optimizer with each parameter's decay, rate and rows; its state is as it was.

    A gradient of what does not train is made zero before, and so is its update after: moments stay
    zero, whatever the optimizer does with them.
    """

    def trained_part(grads: Params) -> Params:
        return jax.tree.map_with_path(lambda path, g: _masked(g, of(dotted(path))), grads)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        moves, state = optimizer.update(trained_part(updates), state, params)
        done = jax.tree.map_with_path(
            lambda path, u, p: _masked(_scaled(u, p, of(dotted(path))), of(dotted(path))),
            moves,
            params,
        )
        return done, state

    return dataclasses.replace(optimizer, update=update, trained_part=trained_part)


def _scaled(update_x: jax.Array, param_x: jax.Array, one: Treatment) -> jax.Array:
    if one.weight_decay:
        update_x = update_x + one.weight_decay * param_x
    if isinstance(one.lr_factor, float) and one.lr_factor == 1.0:
        return update_x
    return update_x * jnp.asarray(one.lr_factor, jnp.float32)


def _masked(array_x: jax.Array, one: Treatment) -> jax.Array:
    if one.trained is None:
        return array_x
    return jnp.where(one.trained, array_x, jnp.zeros_like(array_x))
