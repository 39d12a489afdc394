"""Ministral: a Mistral that may have its window in some layers only."""

from jaxsft.convert.families import llama, mistral
from jaxsft.convert.families.family import Family
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import (
    Settings,
    kinds,
    layer_types,
    plain_parts,
    windows,
)


def read(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    has_window = fields.raw("sliding_window") is not None
    types = layer_types(fields, lambda layer: has_window)
    return {**plain, **kinds(fields, windows(fields, types), [plain["rope"]] * len(types))}


FAMILY = Family(
    model_type="ministral",
    hf_class="MinistralForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=mistral.DEFAULTS,
)
