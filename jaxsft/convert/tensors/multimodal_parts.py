"""The tensors of a multimodal checkpoint: the text part is read and trained, the others (vision
tower, projector) go into the export as they are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsft.convert.families import multimodal, tensor_table
from jaxsft.convert.tensors.huggingface import Tensors
from jaxsft.errors import ConversionError


class PartOfTensors:
    """Some tensors of a file, under other names."""

    def __init__(self, whole: Tensors, names: Mapping[str, str]):
        """
        Args:
            names: name here: name in the file.
        """
        self._whole, self._names = whole, dict(names)

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._whole.shape(self._names[name])

    def dtype(self, name: str) -> np.dtype:
        return self._whole.dtype(self._names[name])

    def read(self, name: str) -> np.ndarray:
        return self._whole.read(self._names[name])


def text_and_rest(
    whole: Tensors, kind: multimodal.Wrapper, naming: multimodal.Naming, where: str
) -> tuple[PartOfTensors, PartOfTensors]:
    """The tensors of the text part, named as modules are, and the others as the file has them.

    Raises:
        ConversionError: a text part under two names.
    """
    known = tuple(prefix for layout in kind.layouts for prefix in (layout.body, layout.head))
    text, others = {}, {}
    for name in whole.names():
        inside = naming.in_modules(name)
        if inside is not None:
            text[inside] = name
        elif name.startswith(known):
            raise ConversionError(
                f"{where}: the weights have unexpected {name}: the text part is called"
                f" {naming.file.body}* and {naming.file.head}*"
            )
        else:
            others[name] = name
    return PartOfTensors(whole, text), PartOfTensors(whole, others)


def notes(others: Tensors, where: str) -> list[str]:
    """A line for what is not trained."""
    parts = dict.fromkeys(_part(name) for name in others.names())
    if not parts:
        return [f"{where}: the files hold the text part only"]
    return [
        f"{where}: the text part is read and trained; the {len(others.names())} other tensors"
        f" ({', '.join(parts)}) go into an export as they are"
    ]


def _part(name: str) -> str:
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "model" else first


def has_own_head(config: Mapping[str, Any], tensors: Tensors, table: tensor_table.Table) -> bool:
    """Whether config.json ties the head, by what it says or transformers' default, and the files
    hold another one: transformers then does not tie it.
    """
    head, embedding = (
        tensor_table.tensor_name(table, leaf) for leaf in ("head_DV", "embedding_VD")
    )
    tied = multimodal.text_config(config, "")["tie_word_embeddings"]
    if not tied or head not in tensors.names():
        return False
    return not _equal(tensors.read(head), tensors.read(embedding))


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Compared row by row, so that two that differ are not read to the end."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
