"""Which parameters train, at which rate: the rules of config.optim over a model's parameters."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxsft.config import Config, Group, Optim
from jaxsft.errors import ConfigError
from jaxsft.model import adapter, layer_stacks, parts, settings
from jaxsft.model.layer_stacks import LAYERS
from jaxsft.model.state import Params
from jaxsft.model.vocabulary import EMBEDDING, HEAD
from jaxsft.training.optimizer import dotted
from jaxsft.training.treatment import Treatment, decays

_TABLES = (EMBEDDING, HEAD)
_SPARED = "norms and biases"


def treatments(
    config: Config,
    model: settings.DecoderSettings,
    shapes: Params,
    new_ids: Collection[int] = (),
    untrained: Collection[str] = (),
) -> dict[str, Treatment]:
    """How each parameter trains, by its dotted path.

    Args:
        shapes: of all parameters.
        new_ids: of config.model.new_tokens; none where a step is only planned.
        untrained: what does not train whatever the rules say.

    Raises:
        ConfigError: a rule that means nothing in this model, or that leaves nothing to train.
    """
    optim = config.optim
    leaves = {dotted(path): leaf for path, leaf in jax.tree.leaves_with_path(shapes)}
    rules = _rules(optim.groups, [name for name in leaves if name not in untrained])
    if optim.last_layers is not None and optim.last_layers > model.num_layers:
        raise ConfigError(
            f"config.optim.last_layers={optim.last_layers}: the model has {model.num_layers} layers"
        )
    depths = _Depths(optim, model)
    ratio = 1.0 if config.lora is None else config.lora.lr_ratio
    found = {
        name: Treatment(0.0, frozen=True, label="as they are")
        if name in untrained
        else _treatment(optim, name, leaf.shape, rules.get(name), depths, new_ids, ratio)
        for name, leaf in leaves.items()
    }
    if all(one.frozen for one in found.values()):
        raise ConfigError(f"config.optim.groups={optim.groups}: nothing is left to train")
    _refuse_lost_rows(config, found)
    return found


def frozen_names(found: Mapping[str, Treatment]) -> frozenset[str]:
    """Parameters that have no gradient, no optimizer state and no place in a checkpoint."""
    return frozenset(name for name, one in found.items() if one.frozen)


@dataclasses.dataclass(frozen=True)
class _Depths:
    """What the layers of a stack have of the rate, and which of them train."""

    optim: Optim
    model: settings.DecoderSettings

    def layers(self, name: str) -> Sequence[int] | None:
        """Those whose parameters lie stacked in this one; None: it is of no layer."""
        path = name.split(".")
        if path[0] != LAYERS:
            return None
        stacks = layer_stacks.stacks(self.model)
        return next(
            stack.layers
            for stack in stacks
            if (place := layer_stacks.path(self.model, stack)) == tuple(path[: len(place)])
        )

    def factor(self, name: str) -> Any:
        """Of the rate: one number, or one for each layer of the stack."""
        decay, last = self.optim.layer_decay, self.model.num_layers - 1
        if decay is None:
            return 1.0
        layers = self.layers(name)
        if layers is not None:
            return np.array([decay ** (last - layer) for layer in layers], np.float32)
        return decay ** (last + 1) if name == EMBEDDING else 1.0

    def trained(self, name: str, has_rule: bool) -> Any:
        """Whether it trains: True or False, or one of them for each layer of the stack."""
        if self.optim.last_layers is None:
            return True
        layers, first = self.layers(name), self.model.num_layers - self.optim.last_layers
        if layers is None:
            return has_rule
        which = np.array([layer >= first for layer in layers])
        return which if which.any() and not which.all() else bool(which.all())


def _treatment(
    optim: Optim,
    name: str,
    shape: tuple[int, ...],
    rule: Group | None,
    depths: _Depths,
    new_ids: Collection[int],
    ratio: float,
) -> Treatment:
    """How one parameter trains.

    Args:
        ratio: of the rate of an adapter's B by that of its A.
    """
    default = optim.weight_decay if decays(name) else 0.0
    spared = _SPARED if optim.weight_decay and not decays(name) else None
    weight, is_adapter, part = name.partition(f"{adapter.SUFFIX}.")
    others = f"adapters of {parts.name_of(weight)}" if is_adapter else "all"
    others = "others" if optim.groups and not is_adapter else others
    label = rule.pattern if rule else spared or others
    trained = depths.trained(name, rule is not None)
    if trained is False or rule and rule.frozen:
        return Treatment(0.0, frozen=True, label=label)
    factor = depths.factor(name) * (rule.lr_factor if rule else 1.0)
    factor *= ratio if is_adapter and part == adapter.B else 1.0
    along: Any = None if trained is True else _first_dim(trained, shape)
    if rule and rule.rows == "new_tokens":
        along = _rows_of(name, shape, new_ids)
    return Treatment(
        default if rule is None or rule.weight_decay is None else rule.weight_decay,
        float(factor) if np.ndim(factor) == 0 else _first_dim(factor, shape),
        along,
        label=label,
    )


def _first_dim(values_L: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One number for each layer of a stack, for an array of this shape."""
    return values_L.reshape(-1, *(1 for _ in shape[1:]))


def _rows_of(name: str, shape: tuple[int, ...], ids: Collection[int]) -> np.ndarray:
    """True for the rows of these tokens, in the layout of the table."""
    dim = 0 if name == EMBEDDING else 1
    found = np.isin(np.arange(shape[dim]), list(ids))
    return found.reshape((-1, 1) if dim == 0 else (1, -1))


def _rules(groups: Sequence[Group], names: Sequence[str]) -> dict[str, Group]:
    """The first rule that means each parameter.

    Raises:
        ConfigError: a rule that means none, or none that an earlier one has left, or rows of
            something without.
    """
    found: dict[str, Group] = {}
    for index, group in enumerate(groups):
        here = f"config.optim.groups[{index}].pattern={group.pattern}"
        meant = [name for name in names if parts.matches(group.pattern, name)]
        if not meant:
            there = ", ".join(dict.fromkeys(parts.name_of(name) for name in names))
            raise ConfigError(f"{here}: matches nothing; there are {there}, and {', '.join(names)}")
        if all(name in found for name in meant):
            raise ConfigError(f"{here}: an earlier rule has all that it matches; the first decides")
        other = next((name for name in meant if name not in _TABLES), None)
        if group.rows == "new_tokens" and other is not None:
            raise ConfigError(
                f"{here}: rows=new_tokens, but {other} has no row for each token; must match"
                " embedding and head alone"
            )
        found |= {name: group for name in meant if name not in found}
    return found


def _refuse_lost_rows(config: Config, found: Mapping[str, Treatment]) -> None:
    """Refuses rows that the run makes but would never train."""
    frozen = [name for name in _TABLES if name in found and found[name].frozen]
    repairs = config.model.dead_rows == "repair"
    if frozen and (config.model.new_tokens or repairs):
        made = "dead_rows=repair" if repairs else f"new_tokens={config.model.new_tokens}"
        if config.lora is not None:
            names = [parts.name_of(name) for name in frozen]
            raise ConfigError(
                f"config.model.{made}: makes rows of {frozen[0]}, which an adapter alone neither"
                f" trains nor saves; set config.lora.train_whole={names}"
            )
        raise ConfigError(
            f"config.model.{made}: makes rows of {frozen[0]}, which config.optim freezes; name it"
            " in a rule of config.optim.groups that trains it"
        )
