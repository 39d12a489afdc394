"""Gemma 3, its text model: Gemma 2 with a rope for each type of layer, and norms of each head's
queries and keys in place of the soft caps.
"""

from jaxsft.convert.families import gemma2, gguf_names
from jaxsft.convert.families.family import Family, defaults, sizes
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_ropes
from jaxsft.convert.families.shared_fields import (
    FULL,
    Settings,
    head_dim,
    kinds,
    layer_types,
    windows,
)
from jaxsft.model.settings import QkNorm


def read(fields: Fields) -> Settings:
    size = head_dim(fields)
    if fields.raw("attn_logit_softcapping") is not None:  # transformers has and does not use it
        fields.tell("attn_logit_softcapping has no effect in this family, as in transformers")
    local_theta = fields.maybe_positive("rope_local_base_freq") or 1e4
    ropes = read_ropes(fields, size, full_theta=1e6, sliding_theta=local_theta)
    every = fields.maybe_count("sliding_window_pattern") or 6
    types = layer_types(fields, lambda layer: (layer + 1) % every != 0)
    return {
        **gemma2.gemma_later(fields),
        "qk_norm": QkNorm.HEAD,
        "rope": ropes[FULL],
        **kinds(fields, windows(fields, types), [ropes[kind] for kind in types]),
    }


FAMILY = Family(
    model_type="gemma3_text",
    hf_class="Gemma3ForCausalLM",
    read=read,
    table=gemma2.TABLE,
    defaults=defaults(131072, **gemma2.LATER_DEFAULTS),
    gguf=gguf_names.Architecture(
        name="gemma3",
        tensors=gguf_names.ENDS
        | gguf_names.HEAD
        | gguf_names.ATTENTION
        | gguf_names.FOUR_NORMS
        | gguf_names.HEAD_NORMS
        | gguf_names.GATED,
        keys=gguf_names.KEYS | gguf_names.WINDOW,
        fixed={
            **gguf_names.GELU,
            **gguf_names.NO_BIASES,
            **gguf_names.CAUSAL,
            "attn_logit_softcapping": (None,),
            "final_logit_softcapping": (None,),
        },
        norm_offset=1.0,
        full_attention_every=6,
        local_rope_theta=10000.0,
        wide_scale_layers=62,
    ),
    text_sizes=sizes(262208, 2304, 9216, 26, 8),
)
