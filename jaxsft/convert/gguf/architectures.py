"""What llama.cpp calls the tensors and settings of each architecture: tables, read both ways."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxsft.errors import ConversionError

OUTPUT = "output.weight"  # the head; not in the file of a tied model
_LAYER = "model.layers.{}."


def _layer(**names: str) -> dict[str, str]:
    """GGUF name -> Hugging Face name of a layer's weights."""
    return {f"blk.{{}}.{ours}.weight": f"{_LAYER}{theirs}.weight" for ours, theirs in names.items()}


def _biases(*pairs: tuple[str, str]) -> dict[str, str]:
    return {f"blk.{{}}.{ours}.bias": f"{_LAYER}self_attn.{theirs}.bias" for ours, theirs in pairs}


_ENDS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
_HEAD = {OUTPUT: "lm_head.weight"}
_ATTENTION = _layer(
    attn_norm="input_layernorm",
    attn_q="self_attn.q_proj",
    attn_k="self_attn.k_proj",
    attn_v="self_attn.v_proj",
    attn_output="self_attn.o_proj",
)
_GATED = _layer(ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj", ffn_down="mlp.down_proj")
_TWO_NORMS = _layer(ffn_norm="post_attention_layernorm")
_FOUR_NORMS = _layer(
    post_attention_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    post_ffw_norm="post_feedforward_layernorm",
)
_HEAD_NORMS = _layer(attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm")
_QKV_BIASES = _biases(("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj"))
_DENSE = _ENDS | _ATTENTION | _TWO_NORMS | _GATED

# GGUF key, without its architecture -> field of config.json.
_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
_WINDOW = {"attention.sliding_window": "sliding_window"}
_SOFTCAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Fields with the values that llama.cpp's graph has; the first is written when a file is read.
_SILU: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", "swish")}
_GELU: dict[str, tuple[Any, ...]] = {"hidden_activation": ("gelu_pytorch_tanh",)}
_NO_BIASES: dict[str, tuple[Any, ...]] = {"attention_bias": (False, None)}
_NO_WINDOW: dict[str, tuple[Any, ...]] = {"use_sliding_window": (False, None)}
_CAUSAL: dict[str, tuple[Any, ...]] = {"use_bidirectional_attention": (None, False)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One value of general.architecture."""

    name: str
    model_types: tuple[str, ...]  # of config.json; the first is given to a file that is read
    hf_class: str
    tensors: Mapping[str, str]  # GGUF name -> Hugging Face name; {} is the layer
    keys: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(_KEYS))
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    presence: Mapping[str, str] = dataclasses.field(default_factory=dict)  # field -> its tensor
    permuted: bool = False  # each head's query and key rows lie 0 h 1 h+1 ..., h: half of head_dim
    norm_offset: float = 0.0  # what the file adds to the weights of norms
    states_head_dim: bool = True  # config.json has head_dim; False: hidden_size / heads, always
    full_attention_every: int | None = None  # the other layers have the window; None: no layer has
    # What llama.cpp takes where a key is missing, if it is not what null in config.json means.
    absent: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    partial_rotary: bool = False  # config.json may have partial_rotary_factor
    long_factors: bool = False  # config.json may have longrope
    local_rope_theta: float | None = None  # of layers with the window, where it is another
    # Query scale: head_dim ** -0.5, but (hidden_size / heads) ** -0.5 at this number of layers.
    wide_scale_layers: int | None = None

    @property
    def states_query_scale(self) -> bool:
        return self.wide_scale_layers is not None

    def query_scalar(self, layers: int, embed_dim: int, heads: int, head_dim: int) -> int:
        """What llama.cpp scales queries by, as config.json has it: to be raised to -0.5."""
        return embed_dim // heads if layers == self.wide_scale_layers else head_dim


LLAMA = Architecture(
    name="llama",
    model_types=("llama", "mistral"),
    hf_class="LlamaForCausalLM",
    tensors=_DENSE | _HEAD | _QKV_BIASES | _biases(("attn_output", "o_proj")),
    fixed={**_SILU, "mlp_bias": (False, None)},
    presence={"attention_bias": "blk.0.attn_q.bias"},
    permuted=True,
)
QWEN2 = Architecture(
    name="qwen2",
    model_types=("qwen2",),
    hf_class="Qwen2ForCausalLM",
    tensors=_DENSE | _HEAD | _QKV_BIASES,
    fixed={**_SILU, **_NO_WINDOW},
    states_head_dim=False,
)
QWEN3 = Architecture(
    name="qwen3",
    model_types=("qwen3",),
    hf_class="Qwen3ForCausalLM",
    tensors=_DENSE | _HEAD | _HEAD_NORMS,
    fixed={**_SILU, **_NO_BIASES, **_NO_WINDOW},
)
GEMMA = Architecture(
    name="gemma",
    model_types=("gemma",),
    hf_class="GemmaForCausalLM",
    tensors=_DENSE,
    fixed={"hidden_act": ("gelu_pytorch_tanh",), **_NO_BIASES, **_CAUSAL},
    norm_offset=1.0,
)
GEMMA2 = Architecture(
    name="gemma2",
    model_types=("gemma2",),
    hf_class="Gemma2ForCausalLM",
    tensors=_ENDS | _ATTENTION | _FOUR_NORMS | _GATED,
    keys=_KEYS | _WINDOW | _SOFTCAPS,
    fixed={**_GELU, **_NO_BIASES, **_CAUSAL},
    norm_offset=1.0,
    full_attention_every=2,
    absent={
        "attention.sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    wide_scale_layers=46,
)
GEMMA3 = Architecture(
    name="gemma3",
    model_types=("gemma3_text",),
    hf_class="Gemma3ForCausalLM",
    tensors=_ENDS | _HEAD | _ATTENTION | _FOUR_NORMS | _HEAD_NORMS | _GATED,
    keys=_KEYS | _WINDOW,
    fixed={
        **_GELU,
        **_NO_BIASES,
        **_CAUSAL,
        "attn_logit_softcapping": (None,),
        "final_logit_softcapping": (None,),
    },
    norm_offset=1.0,
    full_attention_every=6,
    local_rope_theta=10000.0,
    wide_scale_layers=62,
)
PHI3 = Architecture(
    name="phi3",
    model_types=("phi3",),
    hf_class="Phi3ForCausalLM",
    tensors=_ENDS
    | _HEAD
    | _TWO_NORMS
    | _layer(
        attn_norm="input_layernorm",
        attn_qkv="self_attn.qkv_proj",
        attn_output="self_attn.o_proj",
        ffn_up="mlp.gate_up_proj",
        ffn_down="mlp.down_proj",
    ),
    keys=_KEYS | _WINDOW,
    fixed=_SILU,
    states_head_dim=False,
    partial_rotary=True,
    long_factors=True,
)
ARCHITECTURES = (LLAMA, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3, PHI3)


def by_name(name: Any, where: str) -> Architecture:
    """The architecture that a file's general.architecture names.

    Raises:
        ConversionError: one that is not in the table.
    """
    for architecture in ARCHITECTURES:
        if architecture.name == name:
            return architecture
    known = ", ".join(a.name for a in ARCHITECTURES)
    raise ConversionError(f"{where}: general.architecture={name!r} is not supported; {known} are")


def by_model_type(model_type: Any, where: str) -> Architecture:
    """The architecture that llama.cpp has for a config.json.

    Raises:
        ConversionError: a family that is not in the table.
    """
    for architecture in ARCHITECTURES:
        if model_type in architecture.model_types:
            return architecture
    known = ", ".join(t for a in ARCHITECTURES for t in a.model_types)
    raise ConversionError(
        f"{where}: model_type={model_type!r} can't be written as GGUF; {known} can"
    )
