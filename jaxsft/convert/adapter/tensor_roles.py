"""What each tensor of an adapter's file is for, as PEFT loads it. No jax here."""

import dataclasses
import re
from collections.abc import Collection, Iterable
from typing import Any

from jaxsft.convert.adapter.config import AdapterConfig
from jaxsft.errors import ConversionError

PREFIX = "base_model.model."  # of all names in an adapter's file
WEIGHTS = "adapter_model.safetensors"
_FACTOR = re.compile(r"(.+)\.(lora_A|lora_B)\.weight|(.+)\.(lora_embedding_[AB])")
_MAGNITUDE = re.compile(r"(.+)\.lora_magnitude_vector(?:\.weight)?")
_WHOLE = re.compile(r"\.modules_to_save(\.default)?\.")
_WRAPPED, _ORIGINAL = ".base_layer.", ".original_module."


@dataclasses.dataclass(frozen=True)
class Made:
    """What a merged tensor is made of; of nothing here: it is the base's."""

    weight: str | None = None  # the adapter's tensor that takes the place of the base's
    whole: bool = False  # that one is a copy which modules_to_save made
    original: str | None = None  # and this one what it was copied from
    a: str | None = None
    b: str | None = None
    m: str | None = None  # the magnitudes of its outputs


@dataclasses.dataclass(frozen=True)
class AdapterTensor:
    """One tensor of the file."""

    name: str
    target: str  # the base's tensor
    factor: str | None  # A, B, M (a magnitude) or None
    whole: bool
    original: bool
    wrapped: bool  # of a module that has factors

    @property
    def module(self) -> str:
        return self.target.rpartition(".")[0]


def parse(name: str) -> AdapterTensor:
    path = name.removeprefix(PREFIX)
    whole, wrapped = _WHOLE.search(path) is not None, _WRAPPED in path
    original = _ORIGINAL in path
    path = _WHOLE.sub(".", path).replace(_WRAPPED, ".").replace(_ORIGINAL, ".")
    factor = None
    if match := _FACTOR.fullmatch(path):
        path, factor = (match[1] or match[3]) + ".weight", (match[2] or match[4])[-1]
    elif match := _MAGNITUDE.fullmatch(path):
        path, factor = match[1] + ".weight", "M"
    return AdapterTensor(name, path, factor, whole, original, wrapped)


def place(
    parts: Iterable[AdapterTensor], config: AdapterConfig, targeted: Collection[str], where: str
) -> tuple[dict[str, Made], list[str]]:
    """What the base's tensors become, and the names that PEFT would not load.

    Args:
        targeted: the modules that get factors.

    Raises:
        ConversionError: one factor without the other.
    """
    made: dict[str, Made] = {}
    idle = []
    for part in parts:
        whole = part.whole or config.kept(part.module)
        changes: dict[str, Any] = {}
        if part.factor is not None:
            changes[part.factor.lower()] = part.name
            used = part.module in targeted
        elif part.original:
            changes["original"], used = part.name, whole
        else:
            changes |= {"weight": part.name, "whole": whole}
            used = whole or part.wrapped == (part.module in targeted)
        if used:
            made[part.target] = dataclasses.replace(made.get(part.target, Made()), **changes)
        else:
            idle.append(part.name)
    for target, found in made.items():
        if (found.a is None) != (found.b is None):
            there = ["B" if found.a is None else "A"]
            raise ConversionError(f"{where}: {target} has factor {there} only")
        if found.a is not None and (found.m is not None) != config.has_magnitudes:
            there = "no" if found.m is None else "a"
            raise config.refuse("use_dora", f"is said, but {target} has {there} magnitude")
    return made, idle
