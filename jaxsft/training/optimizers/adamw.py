"""AdamW: Adam with weight decay that acts on the parameters, not on the moments.

Source: arXiv:1711.05101 alg. 2; the decay is multiplied by the learning rate, as in PyTorch.
"""

from typing import Any

import jax
import optax

from jaxsft import config
from jaxsft.training.optimizer import Optimizer, elementwise


def adamw(optim: config.Optim) -> Optimizer:
    """AdamW as config.optim has it, without the decay.

    Checkpoints know the state of a chain of two, from when the second was the decay.
    """
    return elementwise(optax.chain(_adam(optim), optax.masked(optax.identity(), True)))


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
