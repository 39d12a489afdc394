"""From config.lora to what is trained: which weights get an adapter, which are trained whole."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from flax import nnx

from jaxsft.config import Config, Lora
from jaxsft.errors import ConfigError
from jaxsft.model import adapter_plan, parts, settings
from jaxsft.model.adapter_plan import Adaptable, AdapterSpec, AdapterSpecs
from jaxsft.model.state import Params
from jaxsft.model.vocabulary import HEAD

_DEFAULT = ("attention", "mlp", "experts")


class Adapters(NamedTuple):
    """A model with adapters beside its weights."""

    specs: AdapterSpecs
    weights: Mapping[str, Adaptable]
    shapes: Params  # of model and adapters
    axes: Params
    frozen: frozenset[str]  # what is not trained, by dotted paths


def declare(
    lora: Lora, decoder: settings.DecoderSettings, shapes: Params, axes: Params
) -> Adapters:
    """The adapters that config.lora asks for.

    Raises:
        ConfigError: a name that means nothing in this model, or an adapter that can't be.
    """
    weights = adapter_plan.adaptable(decoder, shapes, axes)
    specs = _specs(lora, decoder, weights)
    own = [".".join(path) for path in nnx.traversals.flatten_mapping(shapes)]
    whole = _matching("train_whole", lora.train_whole, own)
    if both := sorted(whole & specs.keys()):
        raise ConfigError(
            f"config.lora.train_whole={lora.train_whole}: {both[0]} has an adapter too; leave it"
            " out of one of targets and train_whole"
        )
    frozen = (frozenset(own) - whole) | adapter_plan.constants(specs)
    return Adapters(specs, weights, *adapter_plan.declared(specs, weights, shapes, axes), frozen)


def with_dropout(decoder: settings.DecoderSettings, lora: Lora | None) -> settings.DecoderSettings:
    """The decoder whose adapters' inputs a training step drops numbers of."""
    return decoder if lora is None else dataclasses.replace(decoder, adapter_dropout=lora.dropout)


def lora_notes(config: Config) -> list[str]:
    """What a run's adapters do that its table of parameters doesn't show, for the user."""
    lora, decay, notes = config.lora, config.optim.weight_decay, []
    if lora is not None and lora.dropout:
        notes.append(
            f"dropout={lora.dropout:g}: of what an adapter is given, that share is dropped in"
            " training; nothing is in evaluation and export"
        )
    if lora is not None and lora.init == "pissa":
        notes.append(
            "init=pissa: adapters begin as the weights' largest singular values; the export has"
            " twice the rank, on the base as it is"
        )
        if decay:
            notes.append(
                f"hint: config.optim.weight_decay={decay:g} draws adapters to zero, and with"
                " init=pissa the largest part of the weights with them; 0 is usual"
            )
    return notes


def _specs(
    lora: Lora, decoder: settings.DecoderSettings, weights: Mapping[str, Adaptable]
) -> dict[str, AdapterSpec]:
    if lora.targets is None:
        there = [name for name in _DEFAULT if any(parts.matches(name, path) for path in weights)]
        targets = _matching("targets", there, weights)
    else:
        targets = _matching("targets", lora.targets, weights)
    _refuse_dora(lora, [path for path in targets if weights[path].has_experts])
    _refuse_dropout(lora, targets, weights)
    for name in lora.ranks:
        _matching("ranks", [name], [path for path in weights if path in targets])
    return {path: _spec(lora, decoder, path, weights[path]) for path in weights if path in targets}


def _spec(
    lora: Lora, decoder: settings.DecoderSettings, path: str, weight: Adaptable
) -> AdapterSpec:
    named = (rank for name, rank in lora.ranks.items() if parts.matches(name, path))
    rank = next(named, lora.rank)
    if weight.has_experts and lora.divide_expert_rank:
        assert decoder.moe is not None
        rank = max(1, rank // decoder.moe.experts_per_token)
    scale = lora.alpha / (rank**0.5 if lora.rslora else rank)
    pissa = lora.init == "pissa"
    if pissa and rank > (most := min(math.prod(weight.inputs), math.prod(weight.outputs))):
        raise ConfigError(
            f"config.lora: init=pissa and a rank of {rank}, but {path} has {most} singular values;"
            " set a lower one, by config.lora.ranks for this one alone"
        )
    return AdapterSpec(rank, (scale,), lora.dora, pissa)


def _refuse_dora(lora: Lora, experts: Collection[str]) -> None:
    if lora.dora and experts:
        raise ConfigError(
            "config.lora.dora=True: experts have no DoRA, in PEFT neither; set config.lora.targets"
            " without them, such as ['attention']"
        )


def _refuse_dropout(lora: Lora, targets: Collection[str], weights: Mapping[str, Adaptable]) -> None:
    """Refuses it where an adapter is merged into its weight, in a step here or in PEFT's."""

    def has_none(path: str) -> bool:
        return path == HEAD or weights[path].has_experts or parts.matches("router", path)

    names = {parts.name_of(path): has_none(path) for path in weights if path in targets}
    refused = [name for name, without in names.items() if without]
    if lora.dropout and refused:
        raise ConfigError(
            f"config.lora.dropout={lora.dropout}: adapters of {', '.join(refused)} are merged into"
            " their weights, which leaves no input to drop of; set config.lora.targets="
            f"{[name for name in names if name not in refused]}, or dropout to 0 (lora_dropout in"
            " the adapter_config.json that config.model.adapter names)"
        )


def _matching(field: str, patterns: Iterable[str], paths: Iterable[str]) -> set[str]:
    """The paths that a pattern means.

    Raises:
        ConfigError: a pattern that means none; with what there is.
    """
    paths, found = list(paths), set[str]()
    for pattern in patterns:
        meant = {path for path in paths if parts.matches(pattern, path)}
        if not meant:
            names = dict.fromkeys(parts.name_of(path) for path in paths)
            leaves = dict.fromkeys(path.rpartition(".")[2] for path in paths)
            raise ConfigError(
                f"config.lora.{field}: {pattern!r} matches nothing in this model; there are"
                f" {', '.join(names)}, and {', '.join(leaves)}"
            )
        found |= meant
    return found
