"""The names and layouts of each family's weights: one table, read both ways.

D: embed_dim, N: heads, H: head_dim, F: mlp_dim, V: vocab_size, L: layer.
"""

import dataclasses
import enum
from typing import Any

import numpy as np


class Layout(enum.Enum):
    """How their matrix becomes ours: views only, no value changes, so the way back is exact."""

    SAME = enum.auto()
    TRANSPOSED = enum.auto()  # [F, D] -> [D, F]
    HEADS_OUT = enum.auto()  # [N * H, D] -> [D, N, H]
    HEADS_IN = enum.auto()  # [D, N * H] -> [N, H, D]

    def their_shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        match self:
            case Layout.SAME:
                return ours
            case Layout.TRANSPOSED:
                return ours[::-1]
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
                return theirs.T
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
                return ours.T
            case Layout.HEADS_OUT:
                return ours.transpose(1, 2, 0).reshape(self.their_shape(ours.shape))
            case Layout.HEADS_IN:
                return ours.transpose(2, 0, 1).reshape(self.their_shape(ours.shape))


@dataclasses.dataclass(frozen=True)
class Row:
    theirs: str  # in a Hugging Face file; {} is the layer
    gguf: str  # in a GGUF file
    ours: tuple[str, ...]  # path in the parameter tree
    layout: Layout = Layout.SAME
    gguf_permuted: bool = (
        False  # GGUF stores each head's rows with the rotation's halves interleaved
    )

    @property
    def stacked(self) -> bool:
        return self.ours[0] == "layers"


def _attention(letter: str, leaf: str, layout: Layout, gguf: str, permuted: bool = False) -> Row:
    theirs = f"model.layers.{{}}.self_attn.{letter}_proj.weight"
    path = ("layers", "attention", leaf)
    return Row(theirs, f"blk.{{}}.{gguf}.weight", path, layout, permuted)


def _layer(theirs: str, gguf: str, *ours: str, layout: Layout = Layout.SAME) -> Row:
    return Row(
        f"model.layers.{{}}.{theirs}.weight", f"blk.{{}}.{gguf}.weight", ("layers", *ours), layout
    )


LLAMA = (
    Row("model.embed_tokens.weight", "token_embd.weight", ("embedding_VD",)),
    _layer("input_layernorm", "attn_norm", "attention_norm", "scale_D"),
    _attention("q", "q_DNH", Layout.HEADS_OUT, "attn_q", permuted=True),
    _attention("k", "k_DKH", Layout.HEADS_OUT, "attn_k", permuted=True),
    _attention("v", "v_DKH", Layout.HEADS_OUT, "attn_v"),
    _attention("o", "o_NHD", Layout.HEADS_IN, "attn_output"),
    _layer("post_attention_layernorm", "ffn_norm", "mlp_norm", "scale_D"),
    _layer("mlp.gate_proj", "ffn_gate", "mlp", "gate_DF", layout=Layout.TRANSPOSED),
    _layer("mlp.up_proj", "ffn_up", "mlp", "up_DF", layout=Layout.TRANSPOSED),
    _layer("mlp.down_proj", "ffn_down", "mlp", "down_FD", layout=Layout.TRANSPOSED),
    Row("model.norm.weight", "output_norm.weight", ("final_norm", "scale_D")),
    Row("lm_head.weight", "output.weight", ("head_DV",), Layout.TRANSPOSED),
)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# Rotary frequencies, which old checkpoints repeat in each layer; derived from config.json here.
BUFFER = "model.layers.{}.self_attn.rotary_emb.inv_freq"


@dataclasses.dataclass(frozen=True)
class Weight:
    """One of their tensors, and where it lies in our tree."""

    name: str
    row: Row
    layer: int | None  # index into the stacked leaf
    shape: tuple[int, ...]  # ours, without the layer

    @property
    def their_shape(self) -> tuple[int, ...]:
        return self.row.layout.their_shape(self.shape)


def leaf(tree: dict[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def paths(tree: dict[str, Any], above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The path of each leaf of nested dictionaries."""
    found = set()
    for key, value in tree.items():
        found |= paths(value, (*above, key)) if isinstance(value, dict) else {(*above, key)}
    return found


def rows(params: dict[str, Any]) -> tuple[Row, ...]:
    """The table's rows for a parameter tree; every leaf has exactly one."""
    found = paths(params)
    table = tuple(row for row in LLAMA if row.ours in found)
    assert {row.ours for row in table} == found, f"no table row for {found}"
    return table


def row_weights(row: Row, params: dict[str, Any]) -> list[Weight]:
    """The tensors of one row: one, or one for each layer of a stacked leaf."""
    shape = tuple(leaf(params, row.ours).shape)
    if not row.stacked:
        return [Weight(row.theirs, row, None, shape)]
    return [Weight(row.theirs.format(n), row, n, shape[1:]) for n in range(shape[0])]


def weights(params: dict[str, Any]) -> list[Weight]:
    """Each of their tensors, layer by layer as transformers lists them.

    Args:
        params: nested dictionaries of anything that has a shape.
    """
    found = [weight for row in rows(params) for weight in row_weights(row, params)]
    return sorted(found, key=lambda w: _position(w.row, w.layer))


def _position(row: Row, layer: int | None) -> tuple[int, int, int]:
    index = LLAMA.index(row)
    first_layer_row = next(i for i, other in enumerate(LLAMA) if other.stacked)
    part = 1 if row.stacked else 0 if index < first_layer_row else 2
    return (part, layer or 0, index)
