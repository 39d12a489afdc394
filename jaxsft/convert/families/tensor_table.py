"""How tensors of a Hugging Face file lie in the parameter tree: tables of rows, read both ways.

Each family has its table in its own file.

D: embed_dim, N: heads, H: head_dim, F: mlp_dim, V: vocab_size, L: layer, E: expert.
"""

import dataclasses
import enum
from typing import Any

import numpy as np

from jaxsft.model import layer_stacks, settings

Tree = dict[str, Any]  # nested, as the parameters are; a leaf has a shape, and may be an array


class Layout(enum.Enum):
    """How their array becomes ours: views only, no value changes, so the way back is exact."""

    SAME = enum.auto()
    TRANSPOSED = enum.auto()  # [F, D] -> [D, F], also of each expert: [E, F, D] -> [E, D, F]
    HEADS = enum.auto()  # [N * H] -> [N, H]
    HEADS_OUT = enum.auto()  # [N * H, D] -> [D, N, H]
    HEADS_IN = enum.auto()  # [D, N * H] -> [N, H, D]

    def their_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        match self:
            case Layout.SAME:
                return ours
            case Layout.TRANSPOSED:
                return (*ours[:-2], ours[-1], ours[-2])
            case Layout.HEADS:
                return (ours[0] * ours[1],)
            case Layout.HEADS_OUT:
                return (ours[1] * ours[2], ours[0])
            case Layout.HEADS_IN:
                return (ours[2], ours[0] * ours[1])

    def to_ours(self, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Their array seen in our shape."""
        match self:
            case Layout.SAME:
                return theirs
            case Layout.TRANSPOSED:
                return theirs.swapaxes(-1, -2)
            case Layout.HEADS:
                return theirs.reshape(shape)
            case Layout.HEADS_OUT:
                D, N, H = shape
                return theirs.reshape(N, H, D).transpose(2, 0, 1)
            case Layout.HEADS_IN:
                N, H, D = shape
                return theirs.reshape(D, N, H).transpose(1, 2, 0)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """Our array in their shape."""
        match self:
            case Layout.SAME:
                return ours
            case Layout.TRANSPOSED:
                return ours.swapaxes(-1, -2)
            case Layout.HEADS:
                return ours.reshape(-1)
            case Layout.HEADS_OUT:
                return ours.transpose(1, 2, 0).reshape(self.their_shape(ours.shape))
            case Layout.HEADS_IN:
                return ours.transpose(2, 0, 1).reshape(self.their_shape(ours.shape))


class Fusion(enum.Enum):
    """How several of our leaves share one of their tensors, along its first dimension but where it
    says another.
    """

    ONE_AFTER_THE_OTHER = enum.auto()
    BY_HEAD = enum.auto()  # the parts of head 0, then those of head 1; all parts of equal size
    ALTERNATING = enum.auto()  # in the last dimension: element 0 of each part, then element 1


@dataclasses.dataclass(frozen=True)
class TensorRow:
    theirs: str  # in a Hugging Face file; {} is the layer, a second {} the expert
    ours: tuple[str, ...]  # path in the parameter tree
    layout: Layout = Layout.SAME
    fusion: Fusion | None = None  # rows of one `theirs` share that tensor, in the table's order
    layers: range | None = None  # those of our leaf; None: as many as it has, from the first one

    @property
    def stacked(self) -> bool:
        return self.ours[0] == "layers"

    @property
    def num_indices(self) -> int:
        """Leading dimensions of our leaf that their names count out: layer, expert."""
        return self.theirs.count("{}")


Table = tuple[TensorRow, ...]


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclasses.dataclass(frozen=True)
class Weight:
    """One of our leaves, or a part of one, as one of their tensors holds it."""

    name: str  # of their tensor
    row: TensorRow
    index: tuple[int, ...]  # of the layer and the expert in our leaf
    place: tuple[int, ...]  # the layer and the expert in the model
    shape: tuple[int, ...]  # ours, without the index

    @property
    def part_shape(self) -> tuple[int, ...]:
        """The shape in their layout."""
        return self.row.layout.their_shape(self.shape)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of their tensors: a weight, or several that are fused in it."""

    weights: tuple[Weight, ...]

    @property
    def name(self) -> str:
        return self.weights[0].name

    @property
    def block(self) -> str:
        """The same for all experts, which transformers holds as one tensor; else ""."""
        (layer, *expert), row = self.weights[0].place or (0,), self.weights[0].row
        return row.theirs.format(layer, "*") if expert else ""

    @property
    def their_shape(self) -> tuple[int, ...]:
        shapes = [weight.part_shape for weight in self.weights]
        if self.weights[0].row.fusion is Fusion.ALTERNATING:
            return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def part(self, theirs: np.ndarray, weight: Weight) -> np.ndarray:
        """The view of their tensor that holds one of its weights; to read it or to write it."""
        if len(self.weights) == 1:
            return theirs
        number = self.weights.index(weight)
        if weight.row.fusion is Fusion.ALTERNATING:
            return theirs[..., number :: len(self.weights)]
        if weight.row.fusion is Fusion.BY_HEAD:
            head_dim = weight.shape[-1]
            rest = theirs.shape[1:]
            return theirs.reshape(-1, len(self.weights), head_dim, *rest)[:, number]
        start = sum(other.part_shape[0] for other in self.weights[:number])
        return theirs[start : start + weight.part_shape[0]]

    def to_ours(self, theirs: np.ndarray, weight: Weight) -> np.ndarray:
        part = self.part(theirs, weight).reshape(weight.part_shape)
        return weight.row.layout.to_ours(part, weight.shape)


def leaf(tree: Tree, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def paths(tree: Tree, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The path of each leaf of nested dictionaries."""
    found = set()
    for key, value in tree.items():
        found |= paths(value, (*above, key)) if isinstance(value, dict) else {(*above, key)}
    return found


def of_model(table: Table, decoder: settings.DecoderSettings) -> Table:
    """The table with a row for each stack of layers, where a model has several; else as it is."""
    stacks = layer_stacks.stacks(decoder)
    if len(stacks) == 1:
        return table
    result = []
    for row in table:
        paths = [(*layer_stacks.path(decoder, stack), *row.ours[1:]) for stack in stacks]
        result += (
            [
                dataclasses.replace(row, ours=ours, layers=stack.layers)
                for ours, stack in zip(paths, stacks, strict=True)
            ]
            if row.stacked
            else [row]
        )
    return tuple(result)


def used_rows(params: Tree, table: Table) -> Table:
    """The table's rows for a parameter tree; every leaf has exactly one."""
    found = paths(params)
    used = tuple(row for row in table if row.ours in found)
    assert sorted(row.ours for row in used) == sorted(found), f"not one table row each: {found}"
    return used


def row_weights(row: TensorRow, params: Tree) -> list[Weight]:
    """The weights of one row: one, or one for each layer or expert of a stacked leaf."""
    shape = tuple(leaf(params, row.ours).shape)
    counts, rest = shape[: row.num_indices], shape[row.num_indices :]
    found = []
    for index in np.ndindex(*counts):
        place = index if row.layers is None else (row.layers[index[0]], *index[1:])
        found.append(Weight(row.theirs.format(*place), row, index, place, rest))
    return found


def tensors(params: Tree, table: Table) -> list[Tensor]:
    """Each of their tensors, layer by layer as transformers lists them.

    Args:
        params: nested dictionaries of anything that has a shape.
    """
    named: dict[str, list[Weight]] = {}
    for row in used_rows(params, table):
        for weight in row_weights(row, params):
            named.setdefault(weight.name, []).append(weight)
    found = [Tensor(tuple(weights)) for weights in named.values()]
    for tensor in found:
        assert len(tensor.weights) == 1 or all(w.row.fusion for w in tensor.weights), tensor.name
    return sorted(found, key=lambda tensor: _position(tensor.weights[0], table))


def tensor_name(table: Table, leaf: str) -> str:
    """Their name of a leaf that is in no layer."""
    return next(row.theirs for row in table if row.ours == (leaf,))


def _position(weight: Weight, table: Table) -> tuple[int, ...]:
    first_layer_row = next(i for i, other in enumerate(table) if other.stacked)
    place = table.index(weight.row)
    part = 1 if weight.row.stacked else 0 if place < first_layer_row else 2
    layer, *expert = weight.place or (0,)
    return (part, layer, place, *expert)
