"""gpt-oss: experts with biases and a clamped SwiGLU, attention sinks, alternating windows."""

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.moe_fields import moe
from jaxsft.convert.families.moe_rows import matrix_row
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import (
    Settings,
    attention_bias,
    head_dim,
    kinds,
    layer_types,
    windows,
)
from jaxsft.convert.families.shared_rows import (
    FIRST,
    LAST,
    TWO_NORMS,
    attention_rows,
    fused_rows,
    layer_row,
)
from jaxsft.convert.families.tensor_table import Fusion, Layout, Table
from jaxsft.model.moe_settings import ClampedSwiGLU
from jaxsft.model.settings import NormSettings

# As transformers has it where config.json has none; what was published has the same.
_ROPE = {
    **{"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
    **{"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
}


def read(fields: Fields) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=150000.0, absent=_ROPE)
    types = layer_types(fields, lambda layer: layer % 2 == 0)
    fields.only("experts_per_token", fields.count("num_experts_per_tok"))  # its other name
    swiglu = ClampedSwiGLU(
        alpha=fields.positive("swiglu_alpha"), limit=fields.positive("swiglu_limit")
    )
    return {
        "norm_eps": fields.positive("rms_norm_eps"),
        "norm": NormSettings(scale_in_float32=True),
        "rope": rope,
        **kinds(fields, windows(fields, types), [rope] * len(types)),
        **attention_bias(fields),
        "attention_sinks": True,
        "moe": moe(
            fields,
            "intermediate_size",
            normalised=True,
            clamped_swiglu=swiglu,
            expert_biases=True,
            router_bias=True,
        ),
    }


def _gate_up(theirs: str, gate: str, up: str) -> Table:
    parts = (("moe", gate), ("moe", up))
    return fused_rows(f"mlp.experts.{theirs}", parts, Layout.SAME, Fusion.ALTERNATING)


TABLE: Table = (
    *FIRST,
    layer_row("self_attn.sinks", "attention", "sinks_bias_N"),
    *attention_rows(),
    matrix_row("router", "router_DE"),
    layer_row("mlp.router.bias", "moe", "router_bias_E"),
    *_gate_up("gate_up_proj", "gate_EDF", "up_EDF"),
    *_gate_up("gate_up_proj_bias", "gate_bias_EF", "up_bias_EF"),
    layer_row("mlp.experts.down_proj", "moe", "down_EFD"),
    layer_row("mlp.experts.down_proj_bias", "moe", "down_bias_ED"),
    *TWO_NORMS,
    *LAST,
)
FAMILY = Family(
    model_type="gpt_oss",
    hf_class="GptOssForCausalLM",
    read=read,
    table=TABLE,
    defaults=defaults(
        131072,
        num_key_value_heads=8,
        head_dim=64,
        num_experts_per_tok=4,
        router_aux_loss_coef=0.001,
        rms_norm_eps=1e-5,
        attention_bias=True,
        sliding_window=128,
        swiglu_alpha=1.702,
        swiglu_limit=7.0,
    ),
    harmless=frozenset({"initial_context_length"}),
    mxfp4=True,
)
