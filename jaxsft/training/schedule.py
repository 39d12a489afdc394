"""The learning rate of each step, from config."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxsft import config
from jaxsft.errors import ConfigError

Schedule = Callable[[jax.Array | int], jax.typing.ArrayLike]

_WARMUP_SHARE = 0.03  # where the config gives none: a moderate value among those in wide use
_SHAPED = ("decay_share", "decay_shape")
# Fields of config.Optim that only some schedules read.
_READS = {
    "cosine": {"final_lr_fraction"},
    "linear": {"final_lr_fraction"},
    "constant": set(),
    "warmup_stable_decay": {"final_lr_fraction", *_SHAPED},
    "inverse_sqrt": set(),
}


def make_schedule(optim: config.Optim, num_steps: int) -> Schedule:
    """Learning rate of optimizer step 0, 1, ..., num_steps - 1.

    Step s uses the schedule's value at s + 1: the first step already learns, the last one of the
    warm-up has the peak, and the last one of the run has exactly final_lr_fraction * peak_lr, where
    the schedule has an end.

    Raises:
        ConfigError: warm-up and decay do not fit the run, or a field is set that only others read.
    """
    _refuse_unread(optim)
    warmup_steps = num_warmup_steps(optim, num_steps)
    after = num_steps - warmup_steps
    final = optim.peak_lr * optim.final_lr_fraction
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(
            optim.peak_lr, after, optim.final_lr_fraction
        ),
        "linear": lambda: optax.linear_schedule(optim.peak_lr, final, after),
        "constant": lambda: optax.constant_schedule(optim.peak_lr),
        "warmup_stable_decay": lambda: _stable_then_falling(optim, num_steps, after),
        "inverse_sqrt": lambda: _inverse_sqrt(optim.peak_lr, warmup_steps),
    }[optim.schedule]()
    warmup = optax.linear_schedule(0.0, optim.peak_lr, max(warmup_steps, 1))
    joined = optax.join_schedules([warmup, decay], [warmup_steps])
    return lambda step: joined(step + 1)


def num_warmup_steps(optim: config.Optim, num_steps: int) -> int:
    """Steps of the warm-up of a run: as many as are given, or a share of all, rounded up.

    Raises:
        ConfigError: the warm-up is as long as the run.
    """
    if optim.warmup_steps is None:
        share = _WARMUP_SHARE if optim.warmup_share is None else optim.warmup_share
        return min(math.ceil(share * num_steps), num_steps - 1)
    if optim.warmup_steps >= num_steps:
        raise ConfigError(
            f"config.optim.warmup_steps={optim.warmup_steps}: the run has {num_steps} steps;"
            " the warm-up must be shorter"
        )
    return optim.warmup_steps


def shortest_run(optim: config.Optim) -> int:
    """Steps of a run that the schedule fits, where those of the real one are not known."""
    falling = optim.decay_share if optim.schedule == "warmup_stable_decay" else 0.0
    return math.ceil(((optim.warmup_steps or 0) + 1) / (1 - falling))


def _refuse_unread(optim: config.Optim) -> None:
    of_others = set[str]().union(*_READS.values()) - _READS[optim.schedule]
    for field in dataclasses.fields(optim):
        value = getattr(optim, field.name)
        if field.name in of_others and value != field.default:
            raise ConfigError(
                f"config.optim.{field.name}={value}: the schedule {optim.schedule} does not read it"
            )


def _stable_then_falling(optim: config.Optim, num_steps: int, after: int) -> optax.Schedule:
    """The peak, then a fall over the last decay_share of the run, from the end of the warm-up on.

    Source: arXiv:2405.18392 for both shapes.
    """
    falling = max(round(optim.decay_share * num_steps), 1)
    if falling > after:
        raise ConfigError(
            f"config.optim.decay_share={optim.decay_share}: is {falling} of {num_steps} steps, the"
            f" warm-up leaves {after}"
        )

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.clip((step - (after - falling)) / falling, 0.0, 1.0)
        left = 1.0 - (done if optim.decay_shape == "linear" else jnp.sqrt(done))
        return optim.peak_lr * (optim.final_lr_fraction + (1.0 - optim.final_lr_fraction) * left)

    return rate


def _inverse_sqrt(peak_lr: float, warmup_steps: int) -> optax.Schedule:
    """The peak at the end of the warm-up, half of it after four times as many steps.

    Source: arXiv:1706.03762 sec. 5.3.
    """
    length = max(warmup_steps, 1)  # a run of one step has no warm-up
    return lambda step: peak_lr * jnp.sqrt(length / jnp.maximum(step + length, length))
