"""Gemma: scaled embeddings, and norms that multiply by 1 + scale."""

from jaxsft.convert.families import gguf_names, llama
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import Settings, attention_bias, head_dim
from jaxsft.model.settings import Activation, NormSettings

# The first checkpoints say gelu and mean the approximation.
ACTIVATIONS = {name: Activation.GELU_TANH for name in ("gelu_pytorch_tanh", "gelu")}
NORM = NormSettings(scale_plus_one=True, scale_in_float32=True)


def read(fields: Fields) -> Settings:
    fields.only("use_bidirectional_attention", False)
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    return {
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "rope": read_rope(fields, head_dim(fields), theta=1e4),
        "norm": NORM,
        "embedding_scale": fields.count("hidden_size") ** 0.5,
        **attention_bias(fields),
    }


FAMILY = Family(
    model_type="gemma",
    hf_class="GemmaForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=defaults(
        8192,
        num_key_value_heads=16,
        head_dim=256,
        tie_word_embeddings=True,
        hidden_act="gelu_pytorch_tanh",
    ),
    gguf=gguf_names.Architecture(
        name="gemma",
        tensors=gguf_names.DENSE,
        fixed={
            "hidden_act": ("gelu_pytorch_tanh",),
            **gguf_names.NO_BIASES,
            **gguf_names.CAUSAL,
        },
        norm_offset=1.0,
    ),
)
