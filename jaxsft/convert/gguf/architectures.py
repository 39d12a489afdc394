"""Which family a .gguf file's general.architecture stands for, and the other way round."""

from typing import Any

from jaxsft.convert.families.family import Family
from jaxsft.convert.families.gguf_names import Architecture
from jaxsft.convert.families.registry import FAMILIES
from jaxsft.errors import ConversionError


def by_name(name: Any, where: str) -> Architecture:
    """The architecture that a file's general.architecture names.

    Raises:
        ConversionError: one that no family has.
    """
    found = [f.gguf for f in FAMILIES.values() if f.gguf is not None]
    for architecture in found:
        if architecture.name == name:
            return architecture
    known = ", ".join(dict.fromkeys(architecture.name for architecture in found))
    raise ConversionError(f"{where}: general.architecture={name!r} is not supported; {known} are")


def by_model_type(model_type: Any, where: str) -> Architecture:
    """The architecture that llama.cpp has for a config.json.

    Raises:
        ConversionError: a family that has none.
    """
    found = {f.model_type: f.gguf for f in FAMILIES.values() if f.gguf is not None}
    if not isinstance(model_type, str) or model_type not in found:
        known = ", ".join(found)
        raise ConversionError(
            f"{where}: model_type={model_type!r} can't be written as GGUF; {known} can"
        )
    return found[model_type]


def read_as(architecture: Architecture) -> Family:
    """The family that a file of this architecture is read as: the first that has it."""
    return next(f for f in FAMILIES.values() if f.gguf == architecture)
