"""SGD, with momentum unless it is 0: a sum of gradients that fades, as in PyTorch.

Weight decay acts on the parameters, as it does in AdamW (arXiv:1711.05101 alg. 1); PyTorch's SGD
adds it to the gradient.
"""

import optax

from jaxsft import config
from jaxsft.training.optimizer import Optimizer, elementwise


def sgd(optim: config.Optim) -> Optimizer:
    momentum = optim.sgd_momentum
    return elementwise(optax.trace(momentum) if momentum else optax.identity())
