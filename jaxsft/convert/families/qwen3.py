"""Qwen 3: norms of each head's queries and keys, windows as in Qwen 2."""

from jaxsft.convert.families import gguf_names, llama
from jaxsft.convert.families.family import Family, defaults, sizes
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.qwen2 import WINDOW_DEFAULTS, later_windows
from jaxsft.convert.families.shared_fields import Settings, attention_bias, plain_parts
from jaxsft.model.settings import QkNorm


def read(fields: Fields) -> Settings:
    plain = plain_parts(fields)
    windows = later_windows(fields, plain["rope"])
    return {**plain, **windows, **attention_bias(fields), "qk_norm": QkNorm.HEAD}


FAMILY = Family(
    model_type="qwen3",
    hf_class="Qwen3ForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=defaults(32768, num_key_value_heads=32, head_dim=128, **WINDOW_DEFAULTS),
    gguf=gguf_names.Architecture(
        name="qwen3",
        tensors=gguf_names.DENSE | gguf_names.HEAD | gguf_names.HEAD_NORMS,
        fixed={**gguf_names.SILU, **gguf_names.NO_BIASES, **gguf_names.NO_WINDOW},
    ),
    text_sizes=sizes(151936, 4096, 22016, 32, 32),
)
