"""How far training moved the weights: by parameter, by layer, and in how many directions.

L: layers of a stack; V: rows of the vocabulary; D: embed_dim.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsft.model import adapter, layer_stacks, vocabulary
from jaxsft.model.quantised import Quantised
from jaxsft.model.settings import DecoderSettings
from jaxsft.model.state import Params

ENERGY = 0.9  # share of a change's squared singular values that its rank counts


@dataclasses.dataclass(frozen=True)
class LeafChange:
    """Frobenius norms of a parameter before, and of what it changed by.

    One for each of its layers, or one where it is of no layer.
    """

    name: str = ""  # without the layers: "attention.q_DNH"
    layers: Sequence[int] = ()  # empty: of no layer
    norms: Sequence[float] = ()
    changes: Sequence[float] = ()

    @property
    def relative(self) -> float:
        """Norm of the change over that of the weights, of all layers."""
        return _relative(self.norms, self.changes)

    @property
    def by_layer(self) -> list[float]:
        return [_relative([n], [c]) for n, c in zip(self.norms, self.changes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Rank:
    """In how many directions a matrix changed."""

    name: str
    layer: int | None
    rank: int  # of the largest singular values that hold ENERGY
    of: int  # that there are


@dataclasses.dataclass(frozen=True)
class MovedRows:
    """Rows of a table with a row for each token that are not what they were."""

    name: str
    moved: int
    rows: int


def measured(base: Params, result: Params, s: DecoderSettings) -> list[LeafChange]:
    """The change of each parameter, in the order of their names; as `by_path`."""
    return in_order(by_path(base, result, s))


def in_order(changes: Mapping[str, LeafChange]) -> list[LeafChange]:
    """By their names, those of no layer last."""
    return sorted(changes.values(), key=lambda one: (not one.layers, one.name, list(one.layers)))


def by_path(base: Params, result: Params, s: DecoderSettings) -> dict[str, LeafChange]:
    """The change of each parameter by its dotted path; one pass, where they lie.

    Args:
        result: of the same parameters; one may be a weight with its adapter.
    """
    stacked = {path: _layers_of(path, s) for path in nnx.traversals.flatten_mapping(base)}
    place = jax.tree.leaves(base)[0].sharding
    everywhere = None
    if isinstance(place, jax.sharding.NamedSharding):  # each process sees all sums
        everywhere = jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec())

    # By their paths: jax may put the keys of a mapping in another order.
    def sums(base: Params, result: Params) -> dict[Any, tuple[jax.Array, jax.Array]]:
        after = nnx.traversals.flatten_mapping(result)
        found = {}
        for path, leaf in nnx.traversals.flatten_mapping(base).items():
            if isinstance(after[path], adapter.Adapted):
                found[path] = _of_adapted(after[path], bool(stacked[path]))
            elif isinstance(leaf, Quantised):
                found[path] = _of_quantised(leaf, after[path])
            else:
                found[path] = _squares(leaf, after[path], bool(stacked[path]))
        return found

    squares = jax.device_get(jax.jit(sums, out_shardings=everywhere)(base, result))
    return {
        ".".join(path): LeafChange(
            _name(path, s), stacked[path], *(np.sqrt(np.atleast_1d(one)).tolist() for one in pair)
        )
        for path, pair in squares.items()
    }


def _squares(before: Any, after: Any, stacked: bool) -> tuple[jax.Array, jax.Array]:
    """Squared norms of a leaf and of its change, for each of its layers if it has some."""
    before = before.astype(jnp.float32)
    change = after.astype(jnp.float32) - before
    axes = tuple(range(stacked, before.ndim))
    return jnp.sum(before * before, axis=axes), jnp.sum(change * change, axis=axes)


def _of_adapted(held: adapter.Adapted, stacked: bool) -> tuple[jax.Array, jax.Array]:
    """`_squares` of a weight and what its adapter makes of it, one layer after the other."""

    def of_one(held: adapter.Adapted) -> tuple[jax.Array, jax.Array]:
        return _squares(held.weight, adapter.whole_stack(held), False)

    return jax.lax.map(of_one, held) if stacked else of_one(held)


def _of_quantised(before: Quantised, after: Any) -> tuple[jax.Array, jax.Array]:
    """`_squares` of a stack that is kept in few bits, one layer after the other."""
    return jax.lax.map(lambda pair: _squares(pair[0], pair[1], False), (before, after))


def by_kind(changes: Sequence[LeafChange]) -> list[LeafChange]:
    """The same with stacks of layers put together, each parameter's layers rising."""
    merged: dict[str, list[LeafChange]] = {}
    for change in changes:
        merged.setdefault(change.name, []).append(change)
    found = []
    for name, parts in merged.items():
        rows = [
            row for one in parts for row in zip(one.layers, one.norms, one.changes, strict=False)
        ]
        if rows:
            layers, norms, moved = (list(column) for column in zip(*sorted(rows), strict=True))
            found.append(LeafChange(name, layers, norms, moved))
        else:
            found += parts
    return found


def rows(changes: Sequence[LeafChange]) -> list[tuple[str, str, str, str]]:
    """Each parameter: how far it moved, and the layers that did least and most."""
    shown = []
    for one in by_kind(changes):
        ends = ("", "")
        if one.layers:
            moved = sorted(zip(one.by_layer, one.layers, strict=True))
            ends = tuple(f"{share:.3%} in {layer}" for share, layer in (moved[0], moved[-1]))
        shown.append((one.name, f"{one.relative:.3%}", *ends))
    return shown


def by_layer(changes: Sequence[LeafChange]) -> list[tuple[int, float]]:
    """(layer, relative change of all its parameters)."""
    norms: dict[int, list[float]] = {}
    moved: dict[int, list[float]] = {}
    for one in changes:
        for layer, norm, change in zip(one.layers, one.norms, one.changes, strict=False):
            norms.setdefault(layer, []).append(norm)
            moved.setdefault(layer, []).append(change)
    return [(layer, _relative(norms[layer], moved[layer])) for layer in sorted(norms)]


def overall(changes: Sequence[LeafChange]) -> float:
    """The relative change of all parameters together."""
    return _relative(
        [norm for one in changes for norm in one.norms],
        [change for one in changes for change in one.changes],
    )


def ranks(base: Params, result: Params, s: DecoderSettings, num_layers: int) -> list[Rank]:
    """Of each matrix in some layers, spread evenly from the first to the last; of the first expert
    where there are several."""
    chosen = set(np.linspace(0, s.num_layers - 1, min(num_layers, s.num_layers)).round().tolist())
    after = nnx.traversals.flatten_mapping(result)
    found = []
    for path, leaf in nnx.traversals.flatten_mapping(base).items():
        for place, layer in enumerate(_layers_of(path, s)):
            letters = path[-1].rpartition("_")[2]
            if layer not in chosen or len(letters) < 2:
                continue
            change = _matrix(letters, after[path][place]) - _matrix(letters, leaf[place])
            found.append(Rank(_name(path, s), layer, _rank(change), min(change.shape)))
    return sorted(found, key=lambda one: (one.name, one.layer))


def _matrix(letters: str, weight: jax.Array) -> jax.Array:
    """float32, with what a weight reads from or writes to, embed_dim, as one of its sides."""
    array = weight.astype(jnp.float32)
    if letters.startswith("E"):
        array, letters = array[0], letters[1:]
    if array.ndim < 2:
        return array[:, None]
    return array.reshape(-1, array.shape[-1] if letters.endswith("D") else array[0].size)


@jax.jit
def _energies(change: jax.Array) -> jax.Array:
    """Squares of the singular values, rising: eigenvalues of the smaller product with itself."""
    wide = change if change.shape[0] <= change.shape[1] else change.T
    largest = jnp.maximum(jnp.abs(wide).max(), jnp.finfo(jnp.float32).tiny)
    scaled = wide / largest  # squares of small changes would be 0
    return jnp.linalg.eigvalsh(scaled @ scaled.T)


def _rank(change: jax.Array) -> int:
    energies = np.maximum(np.asarray(_energies(change), np.float64)[::-1], 0)
    total = energies.sum()
    return int(np.searchsorted(np.cumsum(energies), ENERGY * total) + 1) if total > 0 else 0


def moved_rows(base: Params, result: Params) -> list[MovedRows]:
    """Of the embedding, and of the head where it is another table."""

    def count(before: jax.Array, after: jax.Array, leaf: str) -> jax.Array:
        rows = (vocabulary.by_token(leaf, x) for x in (before, after))
        return jnp.sum(jnp.any(jnp.not_equal(*rows), axis=1))

    counted = jax.jit(count, static_argnums=2)
    return [
        MovedRows(
            leaf,
            int(counted(base[leaf], result[leaf], leaf)),
            vocabulary.by_token(leaf, base[leaf]).shape[0],
        )
        for leaf in vocabulary.tables(base)
    ]


def _layers_of(path: tuple[Any, ...], s: DecoderSettings) -> list[int]:
    """The model's layers whose parameters lie stacked in a leaf; none of one that is no layer's."""
    for stack, above in _stacks(s):
        if path[: len(above)] == above:
            return list(stack.layers)
    return []


def _name(path: tuple[Any, ...], s: DecoderSettings) -> str:
    for _, above in _stacks(s):
        if path[: len(above)] == above:
            return ".".join(path[len(above) :])
    return ".".join(path)


def _stacks(s: DecoderSettings) -> Iterator[tuple[layer_stacks.LayerStack, tuple[str, ...]]]:
    for stack in layer_stacks.stacks(s):
        yield stack, layer_stacks.path(s, stack)


def _relative(norms: Sequence[float], changes: Sequence[float]) -> float:
    norm, change = (math.sqrt(sum(x * x for x in values)) for values in (norms, changes))
    return change / norm if norm else (math.inf if change else 0.0)
