"""GPT-NeoX, Pythia: LayerNorm, attention and MLP side by side, a quarter of each head rotated."""

import dataclasses

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import (
    ACTIVATIONS,
    LAYER_NORM,
    Settings,
    attention_bias,
    head_dim,
)
from jaxsft.convert.families.shared_rows import (
    QKV,
    QKV_BIAS,
    TWO_NORMS,
    fused_rows,
    layer_row,
    linear_rows,
)
from jaxsft.convert.families.tensor_table import Fusion, Layout, Table, TensorRow
from jaxsft.model.settings import Block


def read(fields: Fields) -> Settings:
    heads = fields.count("num_attention_heads")
    fields.only("num_key_value_heads", heads)
    fields.only("head_dim", fields.count("hidden_size") // heads)
    theta = fields.maybe_positive("rotary_emb_base") or 1e4
    share = fields.maybe_positive("rotary_pct") or 0.25
    fields.only("rope_theta", theta)  # transformers reads neither of these names here
    fields.only("partial_rotary_factor", share)
    parallel = fields.truth("use_parallel_residual")
    return {
        "norm_eps": fields.positive("layer_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "norm": LAYER_NORM,
        "block": Block.PARALLEL if parallel else Block.SEQUENTIAL,
        "mlp_bias": True,
        "mlp_gated": False,
        **attention_bias(fields),
        "rope": read_rope(fields, head_dim(fields), theta=theta, share=share),
    }


_BY_HEAD = Fusion.BY_HEAD
_LAYER: Table = (
    *TWO_NORMS,
    *fused_rows("attention.query_key_value.weight", QKV, Layout.HEADS_OUT, _BY_HEAD),
    *fused_rows("attention.query_key_value.bias", QKV_BIAS, Layout.HEADS, _BY_HEAD),
    layer_row("attention.dense.weight", "attention", "o_NHD", layout=Layout.HEADS_IN),
    layer_row("attention.dense.bias", "attention", "o_bias_D"),
    *linear_rows("mlp.dense_h_to_4h", "up_DF", "up_bias_F"),
    *linear_rows("mlp.dense_4h_to_h", "down_FD", "down_bias_D"),
)
TABLE: Table = (
    TensorRow("gpt_neox.embed_in.weight", ("embedding_VD",)),
    *(
        dataclasses.replace(row, theirs=row.theirs.replace("model.", "gpt_neox.", 1))
        for row in _LAYER
    ),
    TensorRow("gpt_neox.final_layer_norm.weight", ("final_norm", "scale_D")),
    TensorRow("gpt_neox.final_layer_norm.bias", ("final_norm", "bias_D")),
    TensorRow("embed_out.weight", ("head_DV",), Layout.TRANSPOSED),
)
FAMILY = Family(
    model_type="gpt_neox",
    hf_class="GPTNeoXForCausalLM",
    read=read,
    table=TABLE,
    module_names=(("embed_out.", "lm_head."),),
    defaults=defaults(
        2048,
        hidden_act="gelu",
        attention_bias=True,
        layer_norm_eps=1e-5,
        use_parallel_residual=True,
        rms_norm_eps=...,
    ),
)
