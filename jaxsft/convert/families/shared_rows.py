"""Rows of tensor tables that several families share.

They are the rows of all variants; a model uses those for which it has parameters.

D: embed_dim, N: query heads, K: key-value heads, H: head_dim, F: mlp_dim, V: vocab_size.
"""

import dataclasses

from jaxsft.convert.families.tensor_table import (
    EMBEDDING,
    HEAD,
    Fusion,
    Layout,
    Table,
    TensorRow,
)


def layer_row(theirs: str, *ours: str, layout: Layout = Layout.SAME) -> TensorRow:
    """A row of model.layers.{}, with the name's .weight or .bias left to the caller."""
    return TensorRow(f"model.layers.{{}}.{theirs}", ("layers", *ours), layout)


def attention_rows() -> Table:
    """Separate projections, their biases, and norms of queries and keys by head."""
    heads_out, heads = Layout.HEADS_OUT, Layout.HEADS
    rows = []
    for letter, leaf in (("q", "q_DNH"), ("k", "k_DKH"), ("v", "v_DKH")):
        name, bias = f"self_attn.{letter}_proj", f"{letter}_bias_{leaf[-2:]}"
        rows.append(layer_row(f"{name}.weight", "attention", leaf, layout=heads_out))
        rows.append(layer_row(f"{name}.bias", "attention", bias, layout=heads))
    return (*rows, *OUTPUT, *QK_NORMS)


OUTPUT = (
    layer_row("self_attn.o_proj.weight", "attention", "o_NHD", layout=Layout.HEADS_IN),
    layer_row("self_attn.o_proj.bias", "attention", "o_bias_D"),
)
QK_NORMS = (
    layer_row("self_attn.q_norm.weight", "attention", "q_norm", "scale_H"),
    layer_row("self_attn.q_norm.weight", "attention", "q_norm", "scale_NH"),
    layer_row("self_attn.k_norm.weight", "attention", "k_norm", "scale_H"),
    layer_row("self_attn.k_norm.weight", "attention", "k_norm", "scale_NH"),
)


def linear_rows(theirs: str, weight: str, bias: str) -> Table:
    """One projection of the MLP and its bias."""
    return (
        layer_row(f"{theirs}.weight", "mlp", weight, layout=Layout.TRANSPOSED),
        layer_row(f"{theirs}.bias", "mlp", bias),
    )


DOWN = linear_rows("mlp.down_proj", "down_FD", "down_bias_D")
MLP = (
    *linear_rows("mlp.gate_proj", "gate_DF", "gate_bias_F"),
    *linear_rows("mlp.up_proj", "up_DF", "up_bias_F"),
    *DOWN,
)


def norm_rows(theirs: str, ours: str) -> Table:
    """The scale of one norm, and its bias."""
    return (
        layer_row(f"{theirs}.weight", ours, "scale_D"),
        layer_row(f"{theirs}.bias", ours, "bias_D"),
    )


FIRST = (TensorRow(EMBEDDING, ("embedding_VD",)),)
LAST = (
    TensorRow("model.norm.weight", ("final_norm", "scale_D")),
    TensorRow("model.norm.bias", ("final_norm", "bias_D")),
    TensorRow(HEAD, ("head_DV",), Layout.TRANSPOSED),
)
TWO_NORMS = (
    *norm_rows("input_layernorm", "attention_norm"),
    *norm_rows("post_attention_layernorm", "mlp_norm"),
)


def wide_attention_rows() -> Table:
    """`attention_rows` with norms over all heads together: each has one long scale."""
    wide = (row for row in QK_NORMS if row.ours[-1] == "scale_NH")
    return (
        *(row for row in attention_rows() if row not in QK_NORMS),
        *(dataclasses.replace(row, layout=Layout.HEADS) for row in wide),
    )


def fused_rows(
    theirs: str, parts: tuple[tuple[str, str], ...], layout: Layout, fusion: Fusion
) -> Table:
    """One of their tensors that holds several of our leaves."""
    return tuple(
        dataclasses.replace(layer_row(theirs, *part, layout=layout), fusion=fusion)
        for part in parts
    )


QKV = (("attention", "q_DNH"), ("attention", "k_DKH"), ("attention", "v_DKH"))
QKV_BIAS = (
    ("attention", "q_bias_NH"),
    ("attention", "k_bias_KH"),
    ("attention", "v_bias_KH"),
)
FUSED_GATE_UP = fused_rows(
    "mlp.gate_up_proj.weight",
    (("mlp", "gate_DF"), ("mlp", "up_DF")),
    Layout.TRANSPOSED,
    Fusion.ONE_AFTER_THE_OTHER,
)
