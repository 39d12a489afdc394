"""The optimizers that there are, by config.optim.name."""

import dataclasses
from collections.abc import Callable

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.training.adamw import adamw
from jaxsft.training.optimizer import Optimizer


@dataclasses.dataclass(frozen=True)
class Kind:
    """How an optimizer is made, and which fields of config.Optim are its own."""

    make: Callable[[config.Optim], Optimizer]
    reads: frozenset[str]


OPTIMIZERS = {
    "adamw": Kind(adamw, frozenset({"b1", "b2", "eps", "weight_decay", "first_moment_dtype"})),
}


def make_optimizer(optim: config.Optim) -> Optimizer:
    """The optimizer that config.optim.name names.

    Raises:
        ConfigError: there is none of this name, or a field is set that only others read.
    """
    if optim.name not in OPTIMIZERS:
        names = ", ".join(sorted(OPTIMIZERS))
        raise ConfigError(f"config.optim.name={optim.name}: expected one of {names}")
    kind = OPTIMIZERS[optim.name]
    of_others = frozenset[str]().union(*(one.reads for one in OPTIMIZERS.values())) - kind.reads
    for field in dataclasses.fields(optim):
        value = getattr(optim, field.name)
        if field.name in of_others and value != field.default:
            raise ConfigError(f"config.optim.{field.name}={value}: {optim.name} does not read it")
    return kind.make(optim)
