"""Which tokens' rows training moved, in the embedding and in a head of its own.

V: rows of the vocabulary, D: embed_dim.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsft.model import adapter, vocabulary
from jaxsft.model.adapter import Adapted
from jaxsft.model.quantised import Quantised
from jaxsft.model.state import Params

_SHOWN = 20  # rows of a table, of those that moved furthest
_NEW_SHOWN = 20  # and of tokens that the run added


@dataclasses.dataclass(frozen=True)
class MovedRow:
    id: int = 0
    text: str = ""  # of the token
    new: bool = False  # the run added it
    norm: float = 0.0  # of its row before
    change: float = 0.0  # norm of what the row changed by


@dataclasses.dataclass(frozen=True)
class TableChange:
    name: str = ""  # of the parameter
    tied: bool = False  # the embedding is the head too
    rows: int = 0
    moved: int = 0  # rows that are not what they were
    new: int = 0  # rows of tokens that the run added
    new_moved: int = 0
    top: Sequence[MovedRow] = ()  # that moved furthest, the furthest first


def measured(
    base: Params, result: Params, token_text: Callable[[int], str], new_ids: Collection[int] = ()
) -> list[TableChange]:
    """Of each table with a row for each token; where they lie, nothing as large as one is made.

    Args:
        result: of the same parameters; one may be a weight with its adapter.
        token_text: of the token with a number; None that is too large is asked for.
        new_ids: of tokens that the run added.
    """
    tables = [name for name in vocabulary.tables(base) if not isinstance(base[name], Quantised)]
    found = []
    for name in tables:
        norms_V, changes_V, moved_V = _each_row(base[name], result[name], name)
        own = np.asarray(sorted(new_ids), int)
        furthest = np.argsort(-changes_V, kind="stable")[:_SHOWN]
        shown = {*furthest[moved_V[furthest]].tolist(), *own[moved_V[own]][:_NEW_SHOWN].tolist()}
        top = [
            MovedRow(id, token_text(id), id in new_ids, float(norms_V[id]), float(changes_V[id]))
            for id in sorted(shown, key=lambda id: -changes_V[id])
        ]
        tied = name == vocabulary.EMBEDDING and vocabulary.HEAD not in base
        count = int(moved_V.sum())
        found.append(
            TableChange(name, tied, len(moved_V), count, len(own), int(moved_V[own].sum()), top)
        )
    return found


def _each_row(
    before: jax.Array, after: Any, leaf: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Norms of a table's rows, of their changes, and which are not what they were: [V] each."""
    everywhere = None
    if isinstance(before.sharding, jax.sharding.NamedSharding):  # each process sees all
        nowhere = jax.sharding.PartitionSpec()
        everywhere = jax.sharding.NamedSharding(before.sharding.mesh, nowhere)
    # One by one: as one program a CPU would keep both tables in float32, which all three read.
    computed = (
        jax.jit(compute, static_argnums=2, out_shardings=everywhere)(before, after, leaf)
        for compute in FIGURES
    )
    norm_V, change_V, moved_V = map(jax.device_get, computed)
    return norm_V, change_V, moved_V


def _norms(before: jax.Array, after: Any, leaf: str) -> jax.Array:
    wide = before.astype(jnp.float32)
    return jnp.sqrt(jnp.sum(wide * wide, axis=_axis(leaf)))


def _changes(before: jax.Array, after: Any, leaf: str) -> jax.Array:
    change = _plain(after).astype(jnp.float32) - before.astype(jnp.float32)
    return jnp.sqrt(jnp.sum(change * change, axis=_axis(leaf)))


def _moved(before: jax.Array, after: Any, leaf: str) -> jax.Array:
    # Not by the norm: the square of a small change is 0.
    change = _plain(after).astype(jnp.float32) - before.astype(jnp.float32)
    return jnp.max(jnp.abs(change), axis=_axis(leaf)) != 0


FIGURES = (_norms, _changes, _moved)  # of each row


def _axis(leaf: str) -> int:
    """Along a row: the head lies the other way round."""
    return 0 if leaf == vocabulary.HEAD else 1


def _plain(after: Any) -> jax.Array:
    return adapter.whole_stack(after) if isinstance(after, Adapted) else after
