"""Mistral: a Llama without biases, with one window for all layers or none."""

from jaxsft.convert.families import llama
from jaxsft.convert.families.family import Family, defaults, sizes
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import Settings, plain_parts, same_window


def read(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    return {**plain, **same_window(fields, plain["rope"])}


DEFAULTS = defaults(131072, num_key_value_heads=8, sliding_window=4096, attention_bias=...)
FAMILY = Family(
    model_type="mistral",
    hf_class="MistralForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=DEFAULTS,
    gguf=llama.GGUF,
    text_sizes=sizes(32000, 4096, 14336, 32, 32),
)
