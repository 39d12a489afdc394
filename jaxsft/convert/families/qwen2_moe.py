"""Qwen 1.5 and 2 with experts, one of which every token passes."""

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.moe_fields import in_some_layers, moe, norm_and_rope
from jaxsft.convert.families.moe_rows import QWEN_MOE
from jaxsft.convert.families.qwen2 import WINDOW_DEFAULTS
from jaxsft.convert.families.shared_fields import (
    SLIDING,
    Settings,
    kinds,
    window_types,
    windows,
)
from jaxsft.model.settings import Rope


def read(fields: Fields) -> Settings:
    plain = norm_and_rope(fields, theta=1e4)
    experts = moe(
        fields,
        "moe_intermediate_size",
        normalised=fields.truth("norm_topk_prob"),
        shared_mlp_dim=fields.count("shared_expert_intermediate_size"),
    )
    return {
        **plain,
        **_windows(fields, plain["rope"]),
        **in_some_layers(fields, experts),
        "qkv_bias": fields.truth("qkv_bias"),
    }


def _windows(fields: Fields, rope: Rope) -> Settings:
    """Windows in even layers below max_window_layers, as in transformers 5; none is published."""
    below = fields.natural("max_window_layers")
    types = window_types(fields, lambda layer: layer % 2 == 0 and layer < below)
    if SLIDING not in types:
        fields.raw("sliding_window")  # which transformers writes as 0 then
        return {}
    return kinds(fields, windows(fields, types), [rope] * len(types))


FAMILY = Family(
    model_type="qwen2_moe",
    hf_class="Qwen2MoeForCausalLM",
    read=read,
    table=QWEN_MOE,
    defaults=defaults(
        32768,
        num_key_value_heads=16,
        num_experts_per_tok=4,
        router_aux_loss_coef=0.001,
        norm_topk_prob=False,
        qkv_bias=True,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
        attention_bias=...,
        **WINDOW_DEFAULTS,
    ),
)
