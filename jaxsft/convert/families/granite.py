"""Granite: a Llama whose embeddings, residuals, attention and logits are scaled."""

from jaxsft.convert.families import llama
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import Settings


def read(fields: Fields) -> Settings:
    return {
        **llama.read(fields),
        "embedding_scale": fields.positive("embedding_multiplier"),
        "residual_scale": fields.positive("residual_multiplier"),
        "attention_scale": fields.positive("attention_multiplier"),
        "logit_scale": 1 / fields.positive("logits_scaling"),
    }


FAMILY = Family(
    model_type="granite",
    hf_class="GraniteForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=defaults(
        2048,
        mlp_bias=False,
        embedding_multiplier=1.0,
        residual_multiplier=1.0,
        attention_multiplier=1.0,
        logits_scaling=1.0,
    ),
)
