"""An adapter's file as our parameters have it: factors beside their weights, layers stacked.

What a target holds of several of our weights is taken apart: each gets the ranks that its outputs
use. Layers of other ranks are filled up with zeros, which add nothing and get no gradient; so are
layers without an adapter.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import nnx

from jaxsft.convert.adapter import peft_names
from jaxsft.convert.adapter.config import AdapterConfig
from jaxsft.convert.adapter.peft_names import Factors, Target
from jaxsft.convert.adapter.tensor_roles import PREFIX, WEIGHTS
from jaxsft.convert.families import tensor_table
from jaxsft.convert.families.tensor_table import Table, Tree
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConversionError
from jaxsft.model.adapter_plan import Adaptable, AdapterSpec

_ENDS = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B")
_MAGNITUDE = "lora_magnitude_vector"


@dataclasses.dataclass(frozen=True)
class Stack:
    """The adapters of one of our leaves, a Factors for each layer; one for a leaf of no layer."""

    layers: tuple[Factors, ...]

    @property
    def rank(self) -> int:
        return max(one.a.shape[-1] for one in self.layers)

    @property
    def scales(self) -> tuple[float, ...]:
        """One for all layers, or one for each."""
        scales = tuple(one.scale for one in self.layers)
        return scales[:1] if len(set(scales)) == 1 else scales

    def arrays(self, weight: Adaptable) -> dict[str, np.ndarray]:
        """The parts of the adapter, by their names, as parameters have them beside a weight."""
        spec = AdapterSpec(self.rank, self.scales, self.layers[0].magnitude is not None)
        shapes = {part: shape for part, (shape, _) in weight.adapter(spec).items()}
        a = np.stack([_filled(one.a, self.rank, axis=-1) for one in self.layers])
        b = np.stack([_filled(one.b, self.rank, axis=-2) for one in self.layers])
        found = {"a": a, "b": b, "scale": np.asarray([one.scale for one in self.layers])}
        magnitudes = [one.magnitude for one in self.layers if one.magnitude is not None]
        if magnitudes:
            found["magnitude"] = np.stack(magnitudes)
        return {name: found[name].astype(np.float32).reshape(shapes[name]) for name in shapes}


def read(
    directory: Path, table: Table, shapes: Tree, in_memory: peft_names.InMemory
) -> tuple[dict[str, Stack], set[str]]:
    """The adapters of a directory by the paths of our leaves, and the file's other tensors.

    Args:
        shapes: of the model's own parameters.

    Raises:
        ConversionError: a tensor that is missing, or that belongs to nothing.
    """
    config, file = AdapterConfig(directory), Directory(directory, WEIGHTS)
    paths = [".".join(row.ours) for row in tensor_table.used_rows(shapes, table)]
    every = peft_names.targets(table, shapes, paths, in_memory)
    chosen = _chosen(config, every)
    keys, there = {target.key for target in chosen}, set(file.names())
    found: dict[str, dict[tuple[int, ...], Factors]] = {}
    for target in chosen:
        prefix = PREFIX + target.prefix(keys)
        names = {name for end in (*_ENDS, _MAGNITUDE) if (name := f"{prefix}.{end}") in there}
        if len(names) < 2:
            raise ConversionError(
                f"{directory}: adapter_config.json means {target.key}, but {WEIGHTS} has no"
                f" {prefix}.lora_A.weight and lora_B.weight"
            )
        there -= names
        tensors = {name.removeprefix(f"{prefix}."): file.read(name) for name in names}
        module = target.key.removesuffix(".weight")
        whole = peft_names.from_peft(target, tensors, config.scale(module))
        for part in target.parts:
            found.setdefault(part.path, {})[part.layer] = peft_names.of_part(part, whole)
    wrapped = {f"{PREFIX}{target.module}.base_layer.weight" for target in chosen}
    if lost := sorted(name for name in there - wrapped if not _is_kept(config, name)):
        raise ConversionError(
            f"{directory}: {lost[0]} belongs to no module that it adapts or saves"
        )
    flat = nnx.traversals.flatten_mapping(shapes)
    for path, layers in found.items():
        num_layers = 0 if () in layers else flat[tuple(path.split("."))].shape[0]
        for layer in range(num_layers):
            if (layer,) not in layers:
                like, where = next(iter(layers.values())), f"{directory}: {path} of layer {layer}"
                layers[layer,] = _idle(like, where)
    return {path: _stack(layers) for path, layers in found.items()}, there


def saved_paths(
    table: Table, shapes: Tree, in_memory: peft_names.InMemory, names: set[str]
) -> tuple[str, ...]:
    """The paths of the leaves that tensors of an adapter's file hold whole."""
    bare = {name.removeprefix(PREFIX).replace(".modules_to_save.", ".") for name in names}
    found: dict[str, None] = {}
    for tensor in tensor_table.tensors(shapes, table):
        if in_memory(tensor.name) in bare:
            found |= {".".join(weight.row.ours): None for weight in tensor.weights}
    return tuple(found)


def wrapped(
    table: Table, shapes: Tree, in_memory: peft_names.InMemory, names: set[str]
) -> dict[str, str]:
    """Tensors of an adapter's file that are the base's own, which PEFT saves with an embedding's
    or a head's factors: their names by those of the base's tensors."""
    found = {}
    for tensor in tensor_table.tensors(shapes, table):
        module = in_memory(tensor.name).removesuffix(".weight")
        if (name := f"{PREFIX}{module}.base_layer.weight") in names:
            found[tensor.name] = name
    return found


def _is_kept(config: AdapterConfig, name: str) -> bool:
    """Whether a tensor is of a module that is saved whole; of a tied head, of the embedding."""
    module = name.removeprefix(PREFIX).rpartition(".")[0]
    return config.kept(module) or config.ties_kept and module.endswith("lm_head")


def _chosen(config: AdapterConfig, every: Sequence[Target]) -> list[Target]:
    """The targets that get factors, in the model's order."""
    linear = {
        target.key.removesuffix(".weight")
        for target in every
        if not target.is_parameter and target.parts[0].layer
    }
    return [
        target
        for target in every
        if (
            config.targets_parameter(target.key)
            if target.is_parameter
            else config.targeted(target.key.removesuffix(".weight"), linear)
        )
    ]


def _idle(like: Factors, where: str) -> Factors:
    """The adapter of a layer that has none.

    Raises:
        ConversionError: there is none that stays as it is.
    """
    if like.magnitude is not None:
        raise ConversionError(
            f"{where} has no adapter, and those of others have DoRA: its magnitudes would be"
            " trained too; merge the adapter (config.model.source), or train it with PEFT"
        )
    return Factors(np.zeros_like(like.a), np.zeros_like(like.b), like.scale)


def _stack(layers: Mapping[tuple[int, ...], Factors]) -> Stack:
    """Without the ranks that no layer uses, unless all are new and B is zero."""
    ordered = [layers[at] for at in sorted(layers)]
    ranks = {one.a.shape[-1] for one in ordered}
    if len(ranks) == 1:
        axes = tuple(i for i in range(ordered[0].b.ndim) if i != ordered[0].b.ndim - 2)
        used = np.any([np.any(one.b != 0, axis=axes) for one in ordered], axis=0)
        if used.any() and not used.all():
            ordered = [one._replace(a=one.a[..., used], b=one.b[..., used, :]) for one in ordered]
    return Stack(tuple(ordered))


def _filled(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths)
