"""Lion: the sign of a mean of gradients; one moment, where Adam keeps two.

Every number moves by the learning rate, so it wants one that is 3 to 10 times lower than AdamW's,
and a weight decay that is as much higher. Source: arXiv:2302.06675 alg. 2.
"""

import optax

from jaxsft import config
from jaxsft.training.optimizer import Optimizer, elementwise


def lion(optim: config.Optim) -> Optimizer:
    return elementwise(optax.scale_by_lion(b1=optim.b1, b2=optim.lion_b2))
