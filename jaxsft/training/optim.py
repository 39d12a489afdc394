"""Optimizer and learning-rate schedule from config."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.model.state import Params

Schedule = Callable[[jax.Array | int], jax.typing.ArrayLike]


def make_optimizer(optim: config.Optim) -> optax.GradientTransformation:
    """Updates for a learning rate of -1; the step multiplies them by -schedule(step).

    The rate stays outside so that a skipped step doesn't shift the schedule.
    """
    return optax.chain(
        _adam(optim),
        optax.add_decayed_weights(optim.weight_decay, mask=decayed),
    )


def _adam(optim: config.Optim) -> optax.GradientTransformation:
    """Adam in float32, whose first moment is rounded between steps only."""
    adam = optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=optim.eps)

    def with_mu(state: Any, dtype: str) -> Any:
        return state._replace(mu=jax.tree.map(lambda mean: mean.astype(dtype), state.mu))

    def init(params: Any) -> Any:
        return with_mu(adam.init(params), optim.first_moment_dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, new = adam.update(updates, with_mu(state, "float32"), params)
        return updates, with_mu(new, optim.first_moment_dtype)

    return optax.GradientTransformation(init, update)


def decayed(params: Params) -> Params:
    """True for the leaves that weight decay acts on: all but the norms' scales and the biases."""

    def is_matrix(path, _) -> bool:
        name = jax.tree_util.keystr(path)
        return "scale" not in name and "bias" not in name

    return jax.tree.map_with_path(is_matrix, params)


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
