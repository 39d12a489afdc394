"""Qwen 3 with experts."""

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.moe_fields import in_some_layers, moe, norm_and_rope
from jaxsft.convert.families.moe_rows import QWEN_MOE
from jaxsft.convert.families.shared_fields import Settings, attention_bias, same_window
from jaxsft.model.settings import QkNorm


def read(fields: Fields) -> Settings:
    """A window is for all layers, whatever max_window_layers says."""
    plain, slides = norm_and_rope(fields, theta=1e4), fields.flag("use_sliding_window")
    fields.raw("sliding_window")
    normalised = fields.truth("norm_topk_prob")
    return {
        **plain,
        **(same_window(fields, plain["rope"]) if slides else {}),
        **attention_bias(fields),
        "qk_norm": QkNorm.HEAD,
        **in_some_layers(fields, moe(fields, "moe_intermediate_size", normalised=normalised)),
    }


FAMILY = Family(
    model_type="qwen3_moe",
    hf_class="Qwen3MoeForCausalLM",
    read=read,
    table=QWEN_MOE,
    defaults=defaults(
        32768,
        num_key_value_heads=4,
        num_experts_per_tok=8,
        router_aux_loss_coef=0.001,
        norm_topk_prob=False,
        moe_intermediate_size=768,
        sliding_window=4096,
        use_sliding_window=False,
    ),
    harmless=frozenset({"max_window_layers", "use_qk_norm"}),  # it has these norms
)
