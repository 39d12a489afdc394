"""The learning rate of each step, from config."""

from collections.abc import Callable

import jax
import optax

from jaxsft import config
from jaxsft.errors import ConfigError

Schedule = Callable[[jax.Array | int], jax.typing.ArrayLike]


def make_schedule(optim: config.Optim, num_steps: int) -> Schedule:
    """Learning rate of optimizer step 0, 1, ..., num_steps - 1.

    Step s uses the schedule's value at s + 1: the first step already learns, the step
    warmup_steps - 1 has the peak, and the last step has exactly final_lr_fraction * peak_lr.

    Raises:
        ConfigError: the warm-up is as long as the run.
    """
    if optim.warmup_steps >= num_steps:
        raise ConfigError(
            f"config.optim.warmup_steps={optim.warmup_steps}: the run has {num_steps} steps;"
            " the warm-up must be shorter"
        )
    final = optim.peak_lr * optim.final_lr_fraction
    decay_steps = num_steps - optim.warmup_steps
    decay = {
        "cosine": lambda: optax.cosine_decay_schedule(
            optim.peak_lr, decay_steps, optim.final_lr_fraction
        ),
        "linear": lambda: optax.linear_schedule(optim.peak_lr, final, decay_steps),
        "constant": lambda: optax.constant_schedule(optim.peak_lr),
    }[optim.schedule]()
    warmup = optax.linear_schedule(0.0, optim.peak_lr, max(optim.warmup_steps, 1))
    joined = optax.join_schedules([warmup, decay], [optim.warmup_steps])
    return lambda step: joined(step + 1)
