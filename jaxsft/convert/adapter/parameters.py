"""Adapters of parameters, as PEFT has them for experts and routers: what they add to a tensor.

The names in an adapter's file say which parameter is meant only together with the model: of two
parameters of one module the first one's adapter lies inside the other's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxsft.convert.adapter import peft_names
from jaxsft.convert.adapter.config import AdapterConfig
from jaxsft.convert.adapter.peft_names import Factors, Part, Target
from jaxsft.convert.adapter.tensor_roles import PREFIX
from jaxsft.convert.families import tensor_table
from jaxsft.convert.families.tensor_table import Table, Tensor, Tree, Weight
from jaxsft.convert.tensors.safetensors_read import Directory
from jaxsft.errors import ConversionError


class _Place(NamedTuple):
    """Of a tensor of the base in a target."""

    target: Target
    tensor: Tensor


class AdaptedParameters:
    """The targets of target_parameters, and their tensors in an adapter's file."""

    def __init__(
        self,
        config: AdapterConfig,
        file: Directory,
        table: Table,
        shapes: Tree,
        in_memory: peft_names.InMemory,
    ):
        """
        Raises:
            ConversionError: a name of target_parameters that means nothing, or whose tensors are
                not there or of other shapes.
        """
        self._config, self._file = config, file
        paths = [".".join(row.ours) for row in tensor_table.used_rows(shapes, table)]
        every = peft_names.targets(table, shapes, paths, in_memory)
        self._check_names([target for target in every if target.is_parameter])
        chosen = [t for t in every if t.is_parameter and config.targets_parameter(t.key)]
        self.targets = tuple(chosen)
        keys = {target.key for target in chosen}
        self._prefixes = {target.key: PREFIX + target.prefix(keys) for target in chosen}
        self._places = self._found_places(table, shapes, in_memory)
        self._newest: tuple[str, Factors] | None = None
        there = set(file.names())
        for target in chosen:
            for name in self.names_of(target):
                if name not in there:
                    raise ConversionError(
                        f"{config.where}: target_parameters means {target.key}, but the file has no"
                        f" {name}"
                    )

    def _check_names(self, parameters: list[Target]) -> None:
        for name in self._config.target_parameters:
            if not any(self._config.is_named(name, target.key) for target in parameters):
                raise self._config.refuse(
                    "target_parameters",
                    f"is not supported: the base has no experts or router called {name!r}",
                )

    def _found_places(
        self, table: Table, shapes: Tree, in_memory: peft_names.InMemory
    ) -> dict[str, _Place]:
        by_key = {target.key: target for target in self.targets}
        found = {}
        for tensor in tensor_table.tensors(shapes, table):
            target = by_key.get(peft_names.key_of(tensor.name, in_memory))
            if target is not None:
                found[tensor.name] = _Place(target, tensor)
        return found

    def names_of(self, target: Target) -> tuple[str, str]:
        prefix = self._prefixes[target.key]
        return f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight"

    @property
    def names(self) -> set[str]:
        """All tensors of the adapter's file that belong to parameters."""
        return {name for target in self.targets for name in self.names_of(target)}

    def factors(self, target: Target) -> Factors:
        """Of the whole target, [*E, in, R] and [*E, R, out]."""
        if self._newest is not None and self._newest[0] == target.key:
            return self._newest[1]  # the next expert's, as files have them
        tensors: Mapping[str, np.ndarray] = {
            name.removeprefix(f"{self._prefixes[target.key]}."): self._file.read(name)
            for name in self.names_of(target)
        }
        found = peft_names.from_peft(target, tensors, self._config.scale(target.key))
        rank = self._config.rank(target.key)
        if found.a.shape[-1] != rank or found.b.shape[-2:] != (rank, target.num_outputs):
            raise ConversionError(
                f"{self._config.where}: {target.key} has factors {found.a.shape} and"
                f" {found.b.shape}, expected rank {rank} and {target.num_outputs} outputs"
            )
        for name, factor in zip(self.names_of(target), found[:2], strict=True):
            if not np.isfinite(factor).all():
                raise ConversionError(f"{self._config.where}: {name} holds NaN or infinite values")
        self._newest = (target.key, found)
        return found

    def change(self, name: str) -> np.ndarray | None:
        """What is added to a tensor of the base, float32 in its shape; None: nothing."""
        place = self._places.get(name)
        if place is None:
            return None
        whole = self.factors(place.target)
        result = np.empty(place.tensor.their_shape, np.float32)
        for weight in place.tensor.weights:
            part = peft_names.of_part(_part_of(place.target, weight), whole)
            a, b = part.a, part.b
            if len(weight.index) == 2:
                a, b = a[weight.index[1]], b[weight.index[1]]
            change = (np.float32(part.scale) * (a @ b)).reshape(weight.shape)
            view = place.tensor.part(result, weight)
            view[...] = weight.row.layout.to_theirs(change).reshape(view.shape)
        return result


def _part_of(target: Target, weight: Weight) -> Part:
    path, layer = ".".join(weight.row.ours), weight.index[:1]
    return next(part for part in target.parts if (part.path, part.layer) == (path, layer))
