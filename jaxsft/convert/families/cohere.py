"""Command R: attention and MLP side by side behind one LayerNorm, interleaved rope."""

from jaxsft.convert.families import llama
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import ACTIVATIONS, Settings, attention_bias, head_dim
from jaxsft.model.settings import Block, NormSettings, QkNorm


def read(fields: Fields) -> Settings:
    return {
        **cohere_common(fields),
        "rope": read_rope(fields, head_dim(fields), theta=5e5, interleaved=True),
        "qk_norm": QkNorm.EACH_HEAD if fields.truth("use_qk_norm") else None,
    }


def cohere_common(fields: Fields) -> Settings:
    """What Command R and R7B have in common."""
    return {
        "norm_eps": fields.positive("layer_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "norm": NormSettings(centered=True, scale_in_float32=True),
        "block": Block.PARALLEL_ONE_NORM,
        "logit_scale": fields.positive("logit_scale"),
        **attention_bias(fields),
    }


COMMON_DEFAULTS = {
    **{"tie_word_embeddings": True, "rms_norm_eps": ..., "layer_norm_eps": 1e-5},
    **{"logit_scale": 0.0625},
}
FAMILY = Family(
    model_type="cohere",
    hf_class="CohereForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=defaults(8192, **COMMON_DEFAULTS, use_qk_norm=False),
)
