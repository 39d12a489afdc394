"""The tables of the families whose tensors are not named as llama's.

A table holds the rows of all variants; a model uses those for which it has parameters.
"""

import dataclasses

from jaxsft.convert.families.tensor_table import (
    DOWN,
    FIRST,
    LAST,
    LLAMA,
    MLP,
    OUTPUT,
    QK_NORMS,
    Fusion,
    Layout,
    Table,
    TensorRow,
    attention_rows,
    layer_row,
    linear_rows,
    norm_rows,
)

ONE_AFTER_THE_OTHER, BY_HEAD = Fusion.ONE_AFTER_THE_OTHER, Fusion.BY_HEAD


def fused_rows(
    theirs: str, parts: tuple[tuple[str, str], ...], layout: Layout, fusion: Fusion
) -> Table:
    """One of their tensors that holds several of our leaves."""
    return tuple(
        dataclasses.replace(layer_row(theirs, *part, layout=layout), fusion=fusion)
        for part in parts
    )


_QKV = (("attention", "q_DNH"), ("attention", "k_DKH"), ("attention", "v_DKH"))
_QKV_BIAS = (
    ("attention", "q_bias_NH"),
    ("attention", "k_bias_KH"),
    ("attention", "v_bias_KH"),
)
_GATE_UP = (("mlp", "gate_DF"), ("mlp", "up_DF"))

# Query and key norms over all heads together have one long scale.
WIDE_QK_NORMS = tuple(
    dataclasses.replace(row, layout=Layout.HEADS) for row in QK_NORMS if row.ours[-1] == "scale_NH"
)
OLMO2: Table = (
    *FIRST,
    *(row for row in attention_rows() if row not in QK_NORMS),
    *WIDE_QK_NORMS,
    *MLP,
    *norm_rows("post_attention_layernorm", "attention_out_norm"),
    *norm_rows("post_feedforward_layernorm", "mlp_out_norm"),
    *LAST,
)
GEMMA2: Table = (
    *FIRST,
    *attention_rows(),
    *MLP,
    *norm_rows("input_layernorm", "attention_norm"),
    *norm_rows("post_attention_layernorm", "attention_out_norm"),
    *norm_rows("pre_feedforward_layernorm", "mlp_norm"),
    *norm_rows("post_feedforward_layernorm", "mlp_out_norm"),
    *LAST,
)
_FUSED_GATE_UP = fused_rows(
    "mlp.gate_up_proj.weight", _GATE_UP, Layout.TRANSPOSED, ONE_AFTER_THE_OTHER
)
PHI3: Table = (
    *FIRST,
    *OUTPUT,
    *fused_rows("self_attn.qkv_proj.weight", _QKV, Layout.HEADS_OUT, ONE_AFTER_THE_OTHER),
    *_FUSED_GATE_UP,
    *DOWN,
    *norm_rows("input_layernorm", "attention_norm"),
    *norm_rows("post_attention_layernorm", "mlp_norm"),
    *LAST,
)
GLM4: Table = (
    *FIRST,
    *attention_rows(),
    *_FUSED_GATE_UP,
    *DOWN,
    *norm_rows("input_layernorm", "attention_norm"),
    *norm_rows("post_attention_layernorm", "mlp_norm"),
    *norm_rows("post_self_attn_layernorm", "attention_out_norm"),
    *norm_rows("post_mlp_layernorm", "mlp_out_norm"),
    *LAST,
)
STARCODER2: Table = (
    *(row for row in LLAMA if row not in MLP and row not in LAST and "norm" not in row.theirs),
    *linear_rows("mlp.c_fc", "up_DF", "up_bias_F"),
    *linear_rows("mlp.c_proj", "down_FD", "down_bias_D"),
    *norm_rows("input_layernorm", "attention_norm"),
    *norm_rows("post_attention_layernorm", "mlp_norm"),
    *LAST,
)
GPT_NEOX: Table = (
    TensorRow("gpt_neox.embed_in.weight", ("embedding_VD",)),
    *(
        dataclasses.replace(row, theirs=row.theirs.replace("model.", "gpt_neox.", 1))
        for row in (
            *norm_rows("input_layernorm", "attention_norm"),
            *norm_rows("post_attention_layernorm", "mlp_norm"),
            *fused_rows("attention.query_key_value.weight", _QKV, Layout.HEADS_OUT, BY_HEAD),
            *fused_rows("attention.query_key_value.bias", _QKV_BIAS, Layout.HEADS, BY_HEAD),
            layer_row("attention.dense.weight", "attention", "o_NHD", layout=Layout.HEADS_IN),
            layer_row("attention.dense.bias", "attention", "o_bias_D"),
            *linear_rows("mlp.dense_h_to_4h", "up_DF", "up_bias_F"),
            *linear_rows("mlp.dense_4h_to_h", "down_FD", "down_bias_D"),
        )
    ),
    TensorRow("gpt_neox.final_layer_norm.weight", ("final_norm", "scale_D")),
    TensorRow("gpt_neox.final_layer_norm.bias", ("final_norm", "bias_D")),
    TensorRow("embed_out.weight", ("head_DV",), Layout.TRANSPOSED),
)
