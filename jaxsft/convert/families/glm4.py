"""GLM 4: half of each head rotated, four norms, one matrix for gate and up."""

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import Settings, plain_parts
from jaxsft.convert.families.shared_rows import (
    DOWN,
    FIRST,
    FUSED_GATE_UP,
    LAST,
    TWO_NORMS,
    attention_rows,
    norm_rows,
)


def read(fields: Fields) -> Settings:
    return {
        **plain_parts(fields, interleaved=True, share=0.5),
        "norms_after": True,
        "qkv_bias": fields.flag("attention_bias"),
    }


FAMILY = Family(
    model_type="glm4",
    hf_class="Glm4ForCausalLM",
    read=read,
    table=(
        *FIRST,
        *attention_rows(),
        *FUSED_GATE_UP,
        *DOWN,
        *TWO_NORMS,
        *norm_rows("post_self_attn_layernorm", "attention_out_norm"),
        *norm_rows("post_mlp_layernorm", "mlp_out_norm"),
        *LAST,
    ),
    defaults=defaults(
        131072,
        num_key_value_heads=2,
        head_dim=128,
        rms_norm_eps=0.00000015625,
        attention_bias=True,
    ),
)
