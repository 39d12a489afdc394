"""Rows for tokens that a model did not have, and rows of padding behind them.

V: rows of the embedding, D: embed_dim, N: new rows.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.convert import new_tokenizer
from jaxsft.convert.families import multimodal, tensor_table
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface
from jaxsft.model import settings, vocabulary
from jaxsft.model.state import Params

Initial = Literal["mean", "normal"]
_BLOCK_ROWS = 4096  # widened to float64 at once


@dataclasses.dataclass(frozen=True)
class PlannedRows:
    """The rows that the embedding is to have.

    base     tokens of the tokenizer | spare rows
    planned  the same                | new tokens, where spare rows are used first | padding
    """

    ids: dict[str, int]  # of the new tokens
    trained_rows: int  # rows of the base that have a token of its tokenizer
    base_rows: int
    rows: int

    @property
    def num_tokens(self) -> int:
        """Rows that may be predicted; the others are padding. The base's own spare rows count as
        tokens: it was trained with them, and transformers takes them for tokens too."""
        return max([self.base_rows, *(index + 1 for index in self.ids.values())])

    @property
    def new_rows(self) -> range:
        """Rows of tokens that the base has no trained row for."""
        if not self.ids:
            return range(0)
        return range(self.trained_rows, max(self.ids.values()) + 1)


def plan(
    tokenizer: Path | None, tokens: Sequence[str], rows: int, multiple: int = 1
) -> PlannedRows:
    """The ids after the last one of the tokenizer; rows are added only where these run out.

    Args:
        tokenizer: its directory; not read where there are no new tokens.
        rows: of the embedding now: often more than the tokenizer has tokens.
        multiple: padding fills the rows up to a multiple of this.

    Raises:
        ConversionError: a token that is there already, or a tokenizer without tokenizer.json.
    """
    ids: dict[str, int] = {}
    trained = rows
    if tokens:
        assert tokenizer is not None
        ids = new_tokenizer.new_ids(tokenizer, tokens)
        trained = min(rows, min(ids.values()))
    planned = PlannedRows(ids, trained, rows, rows)
    return dataclasses.replace(planned, rows=-(-planned.num_tokens // multiple) * multiple)


def extended(base: Pretrained, planned: PlannedRows, initial: Initial, seed: int) -> Pretrained:
    """The model with the new number of rows: its description, and its weights as they are read.

    New rows and padding are the mean of the trained ones. Tied stays tied: there is no head to
    grow.

    Args:
        initial: "normal" gives new rows noise with the trained rows' spread in each dimension.
    """
    num_padding = planned.rows - planned.num_tokens
    decoder = dataclasses.replace(base.settings, vocab_size=planned.rows, num_padding=num_padding)
    tensors = base.tensors
    if tensors is not None:
        leaves = [vocabulary.EMBEDDING] + [vocabulary.HEAD] * (not decoder.tied_embeddings)
        names = [tensor_table.tensor_name(base.table, leaf) for leaf in leaves]
        tensors = _Extended(tensors, names, planned, initial, seed)
    return dataclasses.replace(
        base,
        settings=decoder,
        config=multimodal.with_vocab_size(base.config, planned.rows),
        tensors=tensors,
        new_ids=frozenset(planned.ids.values()),
    )


class _Extended:
    """The tensors of a base with rows added to embedding and head.

    Rows are added as a tensor is read, so each process fills its devices' parts as it does for any
    model: the mesh need not divide the rows that the base has.
    """

    def __init__(
        self,
        base: huggingface.Tensors,
        names: Sequence[str],
        planned: PlannedRows,
        initial: Initial,
        seed: int,
    ):
        self._base, self._grown = base, list(names)
        self._planned = planned
        self._initial: Initial = initial
        self._seed = seed

    def names(self) -> list[str]:
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._base.shape(name)
        return (self._planned.rows, *shape[1:]) if name in self._grown else shape

    def dtype(self, name: str) -> np.dtype:
        return self._base.dtype(name)

    def read(self, name: str) -> np.ndarray:
        table = self._base.read(name)
        if name not in self._grown:
            return table
        random = np.random.default_rng([self._seed, self._grown.index(name)])
        return _grow(table, self._planned, self._initial, random)


def _grow(
    table_VD: np.ndarray, planned: PlannedRows, initial: Initial, random: np.random.Generator
) -> np.ndarray:
    mean_D, spread_D = _moments(table_VD[: planned.trained_rows])
    grown_VD = np.empty((planned.rows, table_VD.shape[1]), table_VD.dtype)
    grown_VD[: planned.base_rows] = table_VD
    grown_VD[planned.num_tokens :] = mean_D
    new = planned.new_rows
    rows_ND = np.broadcast_to(mean_D, (len(new), len(mean_D)))
    if initial == "normal":
        rows_ND = rows_ND + spread_D * random.standard_normal(rows_ND.shape)
    grown_VD[new.start : new.stop] = rows_ND
    return grown_VD


def _moments(table_VD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, float64."""
    sum_D, squares_D = np.zeros((2, table_VD.shape[1]))
    for start in range(0, len(table_VD), _BLOCK_ROWS):
        block = table_VD[start : start + _BLOCK_ROWS].astype(np.float64)
        sum_D += block.sum(0)
        squares_D += np.square(block).sum(0)
    mean_D = sum_D / len(table_VD)
    return mean_D, np.sqrt(np.maximum(squares_D / len(table_VD) - np.square(mean_D), 0))


def settle_padding(params: Params, decoder: settings.DecoderSettings) -> Params:
    """The parameters with padding rows at the mean of the others, as they are to be exported.

    Other programs see no padding but tokens. The logit of a mean of rows is the mean of their
    logits, so it is never the largest.
    """
    if not decoder.num_padding:
        return params

    return params | {
        leaf: _settled(leaf, params[leaf], decoder.num_tokens) for leaf in vocabulary.tables(params)
    }


def _settled(leaf: str, table: jax.Array, num_tokens: int) -> jax.Array:
    # On the host, so that the same parameters give the same bits whatever mesh they lie on.
    used_VD = huggingface.on_host(vocabulary.by_token(leaf, table)[:num_tokens])
    mean_D = jnp.asarray(_moments(used_VD)[0], table.dtype)
    return vocabulary.changed_rows(
        leaf, table, lambda rows_VD: rows_VD.at[num_tokens:].set(mean_D[None])
    )
