"""OLMoE: an OLMo with experts, its norms before attention and MLP."""

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.moe_fields import moe, norm_and_rope
from jaxsft.convert.families.moe_rows import EXPERTS, sorted_rows
from jaxsft.convert.families.shared_fields import Settings, attention_bias
from jaxsft.convert.families.shared_rows import FIRST, LAST, TWO_NORMS, wide_attention_rows
from jaxsft.model.settings import QkNorm


def read(fields: Fields) -> Settings:
    fields.only("head_dim", fields.count("hidden_size") // fields.count("num_attention_heads"))
    fields.only("clip_qkv")
    return {
        **norm_and_rope(fields, theta=1e4),
        **attention_bias(fields),
        "qk_norm": QkNorm.WIDTH,
        "moe": moe(fields, "intermediate_size", normalised=fields.truth("norm_topk_prob")),
    }


FAMILY = Family(
    model_type="olmoe",
    hf_class="OlmoeForCausalLM",
    read=read,
    table=sorted_rows(*FIRST, *wide_attention_rows(), *TWO_NORMS, *LAST, *EXPERTS),
    defaults=defaults(
        4096,
        num_experts_per_tok=8,
        router_aux_loss_coef=0.01,
        norm_topk_prob=False,
        rms_norm_eps=1e-5,
    ),
)
