"""The tables of the families with a mixture of experts.

Where a file has one tensor for each expert, transformers fuses them in memory and splits them when
it saves; what it writes is then sorted by name, which decides what comes into which shard.
"""

import dataclasses

from jaxsft.convert.families.tables import WIDE_QK_NORMS, fused_rows
from jaxsft.convert.families.tensor_table import (
    FIRST,
    LAST,
    MLP,
    QK_NORMS,
    Fusion,
    Layout,
    Table,
    TensorRow,
    attention_rows,
    layer_row,
    norm_rows,
)


def _sorted(*rows: TensorRow) -> Table:
    return tuple(sorted(rows, key=lambda row: row.theirs))


def _matrix(theirs: str, *ours: str) -> TensorRow:
    return layer_row(f"mlp.{theirs}.weight", "moe", *ours, layout=Layout.TRANSPOSED)


_NORMS = (
    *norm_rows("input_layernorm", "attention_norm"),
    *norm_rows("post_attention_layernorm", "mlp_norm"),
)
_REST = (*FIRST, *attention_rows(), *_NORMS, *LAST)
_EXPERTS = (
    _matrix("gate", "router_DE"),
    _matrix("experts.{}.gate_proj", "gate_EDF"),
    _matrix("experts.{}.up_proj", "up_EDF"),
    _matrix("experts.{}.down_proj", "down_EFD"),
    _matrix("shared_expert.gate_proj", "shared", "gate_DF"),
    _matrix("shared_expert.up_proj", "shared", "up_DF"),
    _matrix("shared_expert.down_proj", "shared", "down_FD"),
    _matrix("shared_expert_gate", "shared", "share_D1"),
)
QWEN_MOE: Table = _sorted(*_REST, *_EXPERTS, *MLP)  # an MLP in layers without experts
OLMOE: Table = _sorted(*(row for row in _REST if row not in QK_NORMS), *WIDE_QK_NORMS, *_EXPERTS)


def _as_mixtral(row: TensorRow) -> TensorRow:
    theirs = row.theirs.replace(".mlp.", ".block_sparse_moe.")
    for usual, letter in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
        theirs = theirs.replace(usual, letter)
    return dataclasses.replace(row, theirs=theirs)


MIXTRAL: Table = tuple(_as_mixtral(row) for row in QWEN_MOE)  # sorted by the usual names


def _gate_up(theirs: str, gate: str, up: str) -> Table:
    parts = (("moe", gate), ("moe", up))
    return fused_rows(f"mlp.experts.{theirs}", parts, Layout.SAME, Fusion.ALTERNATING)


GPT_OSS: Table = (
    *FIRST,
    layer_row("self_attn.sinks", "attention", "sinks_bias_N"),
    *attention_rows(),
    _matrix("router", "router_DE"),
    layer_row("mlp.router.bias", "moe", "router_bias_E"),
    *_gate_up("gate_up_proj", "gate_EDF", "up_EDF"),
    *_gate_up("gate_up_proj_bias", "gate_bias_EF", "up_bias_EF"),
    layer_row("mlp.experts.down_proj", "moe", "down_EFD"),
    layer_row("mlp.experts.down_proj_bias", "moe", "down_bias_ED"),
    *_NORMS,
    *LAST,
)
