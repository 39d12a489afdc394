"""A model with as many rows of its vocabulary as another one has.

Models of one tokenizer differ in the rows behind their last token, which files hold as padding.
"""

import dataclasses

import numpy as np

from jaxsft.convert.families import tensor_table
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface
from jaxsft.model import vocabulary


def with_rows(base: Pretrained, rows: int) -> Pretrained:
    """The model whose vocabulary has so many rows: the last ones are left out, or zeros come behind
    them, which are padding."""
    decoder, tensors = base.settings, base.tensors
    if rows == decoder.vocab_size:
        return base
    tokens = min(rows, decoder.num_tokens)
    if tensors is not None:
        leaves = [vocabulary.EMBEDDING] + [vocabulary.HEAD] * (not decoder.tied_embeddings)
        names = [tensor_table.tensor_name(base.table, leaf) for leaf in leaves]
        tensors = _WithRows(tensors, frozenset(names), rows)
    decoder = dataclasses.replace(decoder, vocab_size=rows, num_padding=rows - tokens)
    return dataclasses.replace(base, settings=decoder, tensors=tensors)


class _WithRows:
    """The tensors of a base, some of them with another number of rows."""

    def __init__(self, base: huggingface.Tensors, changed: frozenset[str], rows: int):
        self._base, self._changed, self._rows = base, changed, rows

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._base.shape(name)
        return (self._rows, *shape[1:]) if name in self._changed else shape

    def dtype(self, name: str) -> np.dtype:
        return self._base.dtype(name)

    def read(self, name: str) -> np.ndarray:
        table = self._base.read(name)
        if name not in self._changed:
            return table
        made = np.zeros((self._rows, *table.shape[1:]), table.dtype)
        made[: len(table)] = table[: self._rows]
        return made
