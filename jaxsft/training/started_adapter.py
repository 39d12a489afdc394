"""A run that goes on from an adapter in PEFT's format, on the base of config.model.source."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxsft.config import Config, Lora
from jaxsft.convert import source
from jaxsft.convert.adapter import factors, merge
from jaxsft.convert.adapter.config import AdapterConfig
from jaxsft.convert.adapter.factors import Stack
from jaxsft.convert.adapter.tensor_roles import WEIGHTS
from jaxsft.convert.families import config_json
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConfigError, ConversionError
from jaxsft.model import adapter_plan, state
from jaxsft.model.state import Params
from jaxsft.training.lora import Adapters


def resolved(config: Config, base: Pretrained) -> Config:
    """The config with config.lora as the adapter of config.model.adapter has it.

    Raises:
        ConfigError: it names no adapter.
        ConversionError: one that doesn't fit the base, that PEFT itself would not load, or that
            makes of the base what it isn't here.
    """
    if config.model.adapter is None:
        return config
    directory = _directory(config.model.adapter)
    stacks, others = _read(directory, base)
    _refuse_another_base(directory, base, others)
    said = AdapterConfig(directory)
    first = next(iter(stacks.values()))
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    lora = Lora(
        rank=first.rank,
        alpha=first.scales[0] * first.rank,
        targets=tuple(stacks),
        ranks={path: stack.rank for path, stack in stacks.items()},
        dora=said.has_magnitudes,
        dropout=said.dropout,
        train_whole=_kept(base, shapes, others),
    )
    return dataclasses.replace(config, lora=lora)


def begun(
    config: Config,
    base: Pretrained,
    adapters: Adapters,
    frozen: frozenset[str],
    placement: Params,
    params: Params,
) -> Params:
    """The parameters with what the adapter's files hold in the place of what a run begins with.

    Args:
        frozen: parameters that are not trained, by dotted paths.
        params: with adapters at their first values.
    """
    if config.model.adapter is None:
        return params
    directory = _directory(config.model.adapter)
    stacks, _ = _read(directory, base)
    flat = nnx.traversals.flatten_mapping(params)
    for path, stack in stacks.items():
        for part, array in stack.arrays(adapters.weights[path]).items():
            at = (*adapter_plan.adapter_path(path), part)
            flat[at] = jax.device_put(array, flat[at].sharding)
    own = adapter_plan.without_adapters(adapters.shapes)
    whole, _ = state.split(own, frozen & _names(own))
    if whole:  # by the files of the adapter: PEFT's modules_to_save
        own_placement = adapter_plan.without_adapters(placement)
        tensors, where = _merged(directory, base), str(directory)
        read = huggingface.read_params(tensors, base.table, whole, own_placement, where)
        flat |= nnx.traversals.flatten_mapping(read)
    return nnx.traversals.unflatten_mapping(flat)


def _directory(given: str) -> Path:
    found = source.adapter_directory(given)
    if found is None:
        raise ConfigError(
            f"config.model.adapter={given}: has no {source.ADAPTER}: expected the directory of an"
            " adapter in PEFT's format, or of a run that trained one"
        )
    return found


def _read(directory: Path, base: Pretrained) -> tuple[dict[str, Stack], set[str]]:
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    in_memory = config_json.module_names(base.config, str(base.path))
    return factors.read(directory, base.table, shapes, in_memory)


def _merged(directory: Path, base: Pretrained) -> merge.Merged:
    """The base's tensors as the adapter changes them."""
    assert base.tensors is not None
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    in_memory = config_json.module_names(base.config, str(base.path))
    tied = base.settings.tied_embeddings
    return merge.Merged(base.tensors, directory, base.table, shapes, in_memory, tied)


def _refuse_another_base(directory: Path, base: Pretrained, others: set[str]) -> None:
    """Refuses an adapter that unties its base, or that brings other weights for it.

    Args:
        others: tensors of its file that are no factors.
    """
    if _merged(directory, base).untied:
        raise ConversionError(
            f"config.model.adapter={directory}: changes the embedding and the head of a tied base"
            " apart, which no adapter here can; config.model.source=that directory trains the"
            " merged model"
        )
    assert base.tensors is not None
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    in_memory = config_json.module_names(base.config, str(base.path))
    file = Directory(directory, WEIGHTS)
    for ours, theirs in factors.wrapped(base.table, shapes, in_memory, others).items():
        if not np.array_equal(base.tensors.read(ours), file.read(theirs)):
            raise ConversionError(
                f"config.model.adapter={directory}: {theirs} is not the base's {ours}: it was"
                f" trained on another base than config.model.source={base.source}"
            )


def _names(tree: Params) -> frozenset[str]:
    return frozenset(map(".".join, nnx.traversals.flatten_mapping(tree)))


def _kept(base: Pretrained, shapes: Params, others: set[str]) -> tuple[str, ...]:
    """The parameters that the adapter's file holds whole, by their paths."""
    in_memory = config_json.module_names(base.config, str(base.path))
    return factors.saved_paths(base.table, shapes, in_memory, others)
