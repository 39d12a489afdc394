"""Qwen 2, 2.5 and 1.5: biases of queries, keys and values, windows from a layer on."""

from jaxsft.convert.families import gguf_names, llama
from jaxsft.convert.families.family import Family, defaults, sizes
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import (
    Settings,
    kinds,
    plain_parts,
    window_types,
    windows,
)
from jaxsft.model.settings import Rope


def read(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    return {**plain, **later_windows(fields, plain["rope"]), "qkv_bias": True}


def later_windows(fields: Fields, rope: Rope) -> Settings:
    """Windows from layer max_window_layers on, only where use_sliding_window says so."""
    first = fields.natural("max_window_layers")
    types = window_types(fields, lambda layer: layer >= first)
    return kinds(fields, windows(fields, types), [rope] * len(types))


WINDOW_DEFAULTS = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
FAMILY = Family(
    model_type="qwen2",
    hf_class="Qwen2ForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=defaults(32768, num_key_value_heads=32, attention_bias=..., **WINDOW_DEFAULTS),
    gguf=gguf_names.Architecture(
        name="qwen2",
        tensors=gguf_names.DENSE | gguf_names.HEAD | gguf_names.QKV_BIASES,
        fixed={**gguf_names.SILU, **gguf_names.NO_WINDOW},
        states_head_dim=False,
    ),
    text_sizes=sizes(151936, 4096, 22016, 32, 32),
)
