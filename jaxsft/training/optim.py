"""The optimizers that there are, by config.optim.name."""

import dataclasses
from collections.abc import Callable

from jaxsft import config
from jaxsft.errors import ConfigError
from jaxsft.training.ema import with_mean
from jaxsft.training.optimizer import Optimizer
from jaxsft.training.optimizers.adafactor import adafactor
from jaxsft.training.optimizers.adamw import adamw
from jaxsft.training.optimizers.adamw_8bit import adamw_8bit
from jaxsft.training.optimizers.lion import lion
from jaxsft.training.optimizers.muon import muon
from jaxsft.training.optimizers.sgd import sgd
from jaxsft.training.treatment import Treatment, by_default, treated


@dataclasses.dataclass(frozen=True)
class Kind:
    """How an optimizer is made, and which fields of config.Optim are its own."""

    make: Callable[[config.Optim], Optimizer]
    reads: frozenset[str]


_ADAM = frozenset({"b1", "b2", "eps"})
OPTIMIZERS = {
    "adamw": Kind(adamw, _ADAM | {"first_moment_dtype"}),
    "adamw_8bit": Kind(adamw_8bit, _ADAM),
    "adafactor": Kind(lambda _: adafactor(), frozenset()),
    "lion": Kind(lion, frozenset({"b1", "lion_b2"})),
    "muon": Kind(muon, _ADAM | {"muon_momentum"}),
    "sgd": Kind(sgd, frozenset({"sgd_momentum"})),
}


def make_optimizer(
    optim: config.Optim, treatment: Callable[[str], Treatment] | None = None
) -> Optimizer:
    """The optimizer that config.optim.name names.

    Args:
        treatment: of each parameter, by its dotted path; None: all get the config's own rate and
            decay.

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
    made = treated(kind.make(optim), treatment or by_default(optim))
    if optim.ema_decay is None:
        return made
    return with_mean(made, optim.ema_decay, optim.ema_is_result)
