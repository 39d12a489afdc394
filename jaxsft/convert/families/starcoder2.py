"""StarCoder 2: LayerNorm, biases, an MLP without a gate."""

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import (
    ACTIVATIONS,
    LAYER_NORM,
    Settings,
    head_dim,
    same_window,
)
from jaxsft.convert.families.shared_rows import (
    FIRST,
    LAST,
    TWO_NORMS,
    attention_rows,
    linear_rows,
)


def read(fields: Fields) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=1e4)
    bias = fields.truth("use_bias")
    fields.only("norm_type", "layer_norm")
    fields.only("mlp_type", "default")
    return {
        "norm_eps": fields.positive("norm_epsilon"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "norm": LAYER_NORM,
        **dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias"), bias),
        "mlp_gated": False,
        "rope": rope,
        **same_window(fields, rope),
    }


FAMILY = Family(
    model_type="starcoder2",
    hf_class="Starcoder2ForCausalLM",
    read=read,
    table=(
        *FIRST,
        *(row for row in attention_rows() if "norm" not in row.theirs),
        *linear_rows("mlp.c_fc", "up_DF", "up_bias_F"),
        *linear_rows("mlp.c_proj", "down_FD", "down_bias_D"),
        *TWO_NORMS,
        *LAST,
    ),
    defaults=defaults(
        4096,
        num_key_value_heads=2,
        hidden_act="gelu_pytorch_tanh",
        tie_word_embeddings=True,
        initializer_range=0.018042,
        norm_epsilon=1e-5,
        use_bias=True,
        rms_norm_eps=...,
        attention_bias=...,
    ),
)
