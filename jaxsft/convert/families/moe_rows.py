"""Rows of tensor tables that several families with a mixture of experts share.

Where a file has one tensor for each expert, transformers fuses them in memory and splits them when
it saves; what it writes is then sorted by name, which decides what comes into which shard.
"""

from jaxsft.convert.families.shared_rows import (
    FIRST,
    LAST,
    MLP,
    TWO_NORMS,
    attention_rows,
    layer_row,
)
from jaxsft.convert.families.tensor_table import Layout, Table, TensorRow


def sorted_rows(*rows: TensorRow) -> Table:
    return tuple(sorted(rows, key=lambda row: row.theirs))


def matrix_row(theirs: str, *ours: str) -> TensorRow:
    """A row of one matrix of the router, the experts or the shared expert."""
    return layer_row(f"mlp.{theirs}.weight", "moe", *ours, layout=Layout.TRANSPOSED)


EXPERTS = (
    matrix_row("gate", "router_DE"),
    matrix_row("experts.{}.gate_proj", "gate_EDF"),
    matrix_row("experts.{}.up_proj", "up_EDF"),
    matrix_row("experts.{}.down_proj", "down_EFD"),
    matrix_row("shared_expert.gate_proj", "shared", "gate_DF"),
    matrix_row("shared_expert.up_proj", "shared", "up_DF"),
    matrix_row("shared_expert.down_proj", "shared", "down_FD"),
    matrix_row("shared_expert_gate", "shared", "share_D1"),
)
# An MLP is in layers without experts.
QWEN_MOE: Table = sorted_rows(*FIRST, *attention_rows(), *TWO_NORMS, *LAST, *EXPERTS, *MLP)
