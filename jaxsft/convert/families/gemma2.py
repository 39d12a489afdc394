"""Gemma 2: a Gemma with norms after attention and MLP too, alternating windows and soft caps."""

from jaxsft.convert.families import gemma, gguf_names
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import (
    ACTIVATIONS,
    Settings,
    attention_bias,
    head_dim,
    kinds,
    layer_types,
    windows,
)
from jaxsft.convert.families.shared_rows import FIRST, LAST, MLP, attention_rows, norm_rows
from jaxsft.convert.families.tensor_table import Table


def read(fields: Fields) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=1e4)
    types = layer_types(fields, lambda layer: layer % 2 == 0)
    return {
        **gemma_later(fields),
        "rope": rope,
        "attention_soft_cap": fields.maybe_positive("attn_logit_softcapping"),
        **kinds(fields, windows(fields, types), [rope] * len(types)),
    }


def gemma_later(fields: Fields) -> Settings:
    """What Gemma 2 and 3 have in common."""
    fields.only("use_bidirectional_attention", False)
    return {
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_activation", ACTIVATIONS),
        "norm": gemma.NORM,
        "norms_after": True,
        "embedding_scale": fields.count("hidden_size") ** 0.5,
        "attention_scale": fields.positive("query_pre_attn_scalar") ** -0.5,
        "logit_soft_cap": fields.maybe_positive("final_logit_softcapping"),
        **attention_bias(fields),
    }


TABLE: Table = (
    *FIRST,
    *attention_rows(),
    *MLP,
    *norm_rows("input_layernorm", "attention_norm"),
    *norm_rows("post_attention_layernorm", "attention_out_norm"),
    *norm_rows("pre_feedforward_layernorm", "mlp_norm"),
    *norm_rows("post_feedforward_layernorm", "mlp_out_norm"),
    *LAST,
)
LATER_DEFAULTS = {  # of Gemma 3 too
    **{"tie_word_embeddings": True, "hidden_act": ..., "num_key_value_heads": 4, "head_dim": 256},
    **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
    **{"sliding_window": 4096},
}
FAMILY = Family(
    model_type="gemma2",
    hf_class="Gemma2ForCausalLM",
    read=read,
    table=TABLE,
    defaults=defaults(
        8192, **LATER_DEFAULTS, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    ),
    gguf=gguf_names.Architecture(
        name="gemma2",
        tensors=gguf_names.ENDS | gguf_names.ATTENTION | gguf_names.FOUR_NORMS | gguf_names.GATED,
        keys=gguf_names.KEYS | gguf_names.WINDOW | gguf_names.SOFTCAPS,
        fixed={**gguf_names.GELU, **gguf_names.NO_BIASES, **gguf_names.CAUSAL},
        norm_offset=1.0,
        full_attention_every=2,
        absent={
            "attention.sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        wide_scale_layers=46,
    ),
)
