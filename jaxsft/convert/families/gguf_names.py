"""The names that llama.cpp has for tensors and settings: what an architecture is, and those names
that several share.

The names are tables that are read both ways; each family has its own in its file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

OUTPUT = "output.weight"  # the head; not in the file of a tied model
_LAYER = "model.layers.{}."


def layer_weights(**names: str) -> dict[str, str]:
    """GGUF name -> Hugging Face name of a layer's weights."""
    return {f"blk.{{}}.{ours}.weight": f"{_LAYER}{theirs}.weight" for ours, theirs in names.items()}


def biases(*pairs: tuple[str, str]) -> dict[str, str]:
    return {f"blk.{{}}.{ours}.bias": f"{_LAYER}self_attn.{theirs}.bias" for ours, theirs in pairs}


ENDS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
HEAD = {OUTPUT: "lm_head.weight"}
ATTENTION = layer_weights(
    attn_norm="input_layernorm",
    attn_q="self_attn.q_proj",
    attn_k="self_attn.k_proj",
    attn_v="self_attn.v_proj",
    attn_output="self_attn.o_proj",
)
GATED = layer_weights(ffn_gate="mlp.gate_proj", ffn_up="mlp.up_proj", ffn_down="mlp.down_proj")
TWO_NORMS = layer_weights(ffn_norm="post_attention_layernorm")
FOUR_NORMS = layer_weights(
    post_attention_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    post_ffw_norm="post_feedforward_layernorm",
)
HEAD_NORMS = layer_weights(attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm")
QKV_BIASES = biases(("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj"))
DENSE = ENDS | ATTENTION | TWO_NORMS | GATED

# GGUF key, without its architecture -> field of config.json.
KEYS = {
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
WINDOW = {"attention.sliding_window": "sliding_window"}
SOFTCAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Fields that are written as floats, also where config.json has an integer.
FLOATS = frozenset({"rms_norm_eps", *SOFTCAPS.values()})
# Fields with the values that llama.cpp's graph has; the first is written when a file is read.
SILU: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", "swish")}
GELU: dict[str, tuple[Any, ...]] = {"hidden_activation": ("gelu_pytorch_tanh",)}
NO_BIASES: dict[str, tuple[Any, ...]] = {"attention_bias": (False, None)}
NO_WINDOW: dict[str, tuple[Any, ...]] = {"use_sliding_window": (False, None)}
CAUSAL: dict[str, tuple[Any, ...]] = {"use_bidirectional_attention": (None, False)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One value of general.architecture."""

    name: str
    tensors: Mapping[str, str]  # GGUF name -> Hugging Face name; {} is the layer
    keys: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(KEYS))
    floats: frozenset[str] = FLOATS
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    presence: Mapping[str, str] = dataclasses.field(default_factory=dict)  # field -> its tensor
    permuted: bool = False  # each head's query and key rows lie 0 h 1 h+1 ..., h: half of head_dim
    norm_offset: float = 0.0  # what the file adds to the weights of norms
    states_head_dim: bool = True  # config.json has head_dim; False: hidden_size / heads, always
    full_attention_every: int | None = None  # the other layers have the window; None: no layer has
    # The value of llama.cpp for a missing key, if it is not what null in config.json means.
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
