"""Phi 3, 3.5 and 4: one matrix for queries, keys and values, one for gate and up; longrope."""

from jaxsft.convert.families import gguf_names
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import ACTIVATIONS, Settings, head_dim, same_window
from jaxsft.convert.families.shared_rows import (
    DOWN,
    FIRST,
    FUSED_GATE_UP,
    LAST,
    OUTPUT,
    QKV,
    TWO_NORMS,
    fused_rows,
)
from jaxsft.convert.families.tensor_table import Fusion, Layout
from jaxsft.model.settings import LongRopeScaling

_SPELLINGS = {"su": "longrope", "yarn": "longrope"}  # as transformers reads them here


def read(fields: Fields) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=1e4, share=1.0, spellings=_SPELLINGS)
    if rope.scaling is not None and not isinstance(rope.scaling, LongRopeScaling):
        raise fields.refuse("rope_scaling", "is not supported; longrope is")
    plain = {
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "rope": rope,
    }
    return {**plain, **same_window(fields, rope)}


_FUSED_QKV = fused_rows(
    "self_attn.qkv_proj.weight", QKV, Layout.HEADS_OUT, Fusion.ONE_AFTER_THE_OTHER
)
FAMILY = Family(
    model_type="phi3",
    hf_class="Phi3ForCausalLM",
    read=read,
    table=(*FIRST, *OUTPUT, *_FUSED_QKV, *FUSED_GATE_UP, *DOWN, *TWO_NORMS, *LAST),
    defaults=defaults(
        4096, rms_norm_eps=1e-5, original_max_position_embeddings=4096, attention_bias=...
    ),
    gguf=gguf_names.Architecture(
        name="phi3",
        tensors=gguf_names.ENDS
        | gguf_names.HEAD
        | gguf_names.TWO_NORMS
        | gguf_names.layer_weights(
            attn_norm="input_layernorm",
            attn_qkv="self_attn.qkv_proj",
            attn_output="self_attn.o_proj",
            ffn_up="mlp.gate_up_proj",
            ffn_down="mlp.down_proj",
        ),
        keys=gguf_names.KEYS | gguf_names.WINDOW,
        fixed=gguf_names.SILU,
        states_head_dim=False,
        partial_rotary=True,
        long_factors=True,
    ),
)
