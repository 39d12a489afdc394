"""Tiny random models of every family, made by transformers, in the variants of real checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any

VOCAB, LENGTH = 96, 40
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
ONE_KV_HEAD = {"num_key_value_heads": 1}
WIDE_HEADS = {"head_dim": 12}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
ATTENTION_BIAS = {"attention_bias": True}


def rope(kind: str = "default", theta: float = 100.0, **others: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **others}}


LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
LINEAR = rope("linear", factor=4.0)
DYNAMIC = rope("dynamic", factor=2.0)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=16)
SHARP_YARN = {**YARN["rope_parameters"], "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}
MSCALE_YARN = {**YARN["rope_parameters"], "mscale": 0.7, "mscale_all_dim": 1.3}


def longrope(num_rotations: int, **others: Any) -> dict[str, Any]:
    """The short factors are for rows of up to 16 tokens, and rows of both kinds are compared."""
    factors = [1.0 + 0.3 * i for i in range(num_rotations)]
    return {
        **rope("longrope", short_factor=factors, long_factor=[3 * f for f in factors], **others),
        "original_max_position_embeddings": 16,
    }


def by_type(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "full_attention": full["rope_parameters"],
            "sliding_attention": sliding["rope_parameters"],
        }
    }


def layers(letters: str) -> dict[str, Any]:
    """s slides, f sees all."""
    names = {"s": "sliding_attention", "f": "full_attention"}
    return {"layer_types": [names[letter] for letter in letters], "num_hidden_layers": len(letters)}


@dataclasses.dataclass(frozen=True)
class Case:
    family: str
    features: str  # that differ from those of the family's other cases
    changes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.family}: {self.features}"


LOUD = {"logit_scale": 1.5}  # the usual 0.0625 would hide differences
WINDOW = {"sliding_window": 7}
QWEN_WINDOW = {**WINDOW, "use_sliding_window": True, "num_hidden_layers": 3}
ROUTING = {"num_experts_per_tok": 2, "num_experts": 6}
EXPERTS = {**ROUTING, "moe_intermediate_size": 20}
SHARED = {**EXPERTS, "shared_expert_intermediate_size": 28}
LOCAL = {"num_experts_per_tok": 3, "num_local_experts": 5, "intermediate_size": 20}
CASES = [
    Case("llama", "grouped heads, llama3 rope, tied", {**LLAMA3, **TIED}),
    Case("llama", "biases, head_dim, linear rope", {**ATTENTION_BIAS, "mlp_bias": True, **LINEAR}),
    Case(
        "llama",
        "one key-value head, dynamic rope",
        {**ONE_KV_HEAD, **DYNAMIC, "max_position_embeddings": 20},
    ),
    Case("llama", "yarn rope", {**WIDE_HEADS, **YARN}),
    Case("llama", "yarn with betas, not truncated", {"rope_parameters": SHARP_YARN}),
    Case("llama", "yarn with mscales", {"rope_parameters": MSCALE_YARN}),
    Case("mistral", "window", WINDOW),
    Case("mistral", "no window, head_dim", {"sliding_window": None, **WIDE_HEADS}),
    Case("ministral", "window in some layers", {**WINDOW, "head_dim": 8, **layers("fs")}),
    Case("qwen2", "query, key, value biases", {}),
    Case("qwen2", "windows from layer 1, tied", {**QWEN_WINDOW, "max_window_layers": 1, **TIED}),
    Case("qwen2", "layer_types, yarn rope", {**QWEN_WINDOW, **YARN, **layers("sfs")}),
    Case("qwen3", "query, key norms, head_dim, tied", {**WIDE_HEADS, **TIED}),
    Case(
        "qwen3",
        "biases, windows",
        {**ATTENTION_BIAS, "head_dim": 8, **QWEN_WINDOW, "max_window_layers": 2},
    ),
    Case("gemma", "one key-value head, head_dim", {**ONE_KV_HEAD, **WIDE_HEADS}),
    Case("gemma", "untied", {"head_dim": 8, **UNTIED, **ATTENTION_BIAS}),
    Case(
        "gemma2",
        "soft caps, scale, alternating windows",
        {
            **{**WINDOW, **WIDE_HEADS, "num_hidden_layers": 3, "query_pre_attn_scalar": 20},
            **{"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
        },
    ),
    Case(
        "gemma2",
        "without soft caps, layer_types, untied",
        {
            **{**WINDOW, "head_dim": 8, **layers("fs"), **UNTIED},
            **{"attn_logit_softcapping": None, "final_logit_softcapping": None},
        },
    ),
    Case(
        "gemma3_text",
        "two ropes, one scaled, window pattern",
        {
            **{**WINDOW, **WIDE_HEADS, "num_hidden_layers": 3, "sliding_window_pattern": 2},
            **by_type(rope("linear", 5000.0, factor=8.0), rope(theta=50.0)),
        },
    ),
    Case(
        "gemma3_text",
        "soft cap of logits, layer_types, scale",
        {
            **{**WINDOW, "head_dim": 8, **layers("sf"), "query_pre_attn_scalar": 20},
            **{"final_logit_softcapping": 2.0},
        },
    ),
    Case("phi3", "fused projections", {}),
    Case("phi3", "longrope, window", {**longrope(4), "sliding_window": 9}),
    Case(
        "phi3",
        "longrope of a share of the head, tied",
        {**longrope(3, partial_rotary_factor=0.75), **TIED},
    ),
    Case("olmo2", "query, key norms over the width", {}),
    Case("olmo2", "one key-value head, biases", {**ONE_KV_HEAD, **ATTENTION_BIAS, **TIED}),
    Case(
        "olmo3",
        "windows, yarn rope in full layers",
        {**WINDOW, **layers("sf"), **by_type(YARN, rope(theta=50.0))},
    ),
    Case("olmo3", "default pattern", {**WINDOW, "num_hidden_layers": 4}),
    Case("smollm3", "layers without rope", {"no_rope_layers": [0, 1]}),
    Case(
        "smollm3",
        "windows where there is no rope, biases, untied",
        {
            **{**WINDOW, "use_sliding_window": True, "no_rope_layer_interval": 2, **UNTIED},
            **{**ATTENTION_BIAS, "mlp_bias": True, "num_hidden_layers": 3},
        },
    ),
    Case(
        "granite",
        "four multipliers",
        {
            **{"embedding_multiplier": 6.0, "residual_multiplier": 0.3},
            **{"attention_multiplier": 0.2, "logits_scaling": 3.0},
        },
    ),
    Case(
        "granite",
        "biases, tied",
        {**ATTENTION_BIAS, "mlp_bias": True, "attention_multiplier": 0.3, **TIED},
    ),
    Case("cohere", "LayerNorm, one block, interleaved rope", LOUD),
    Case(
        "cohere",
        "query, key norms, untied",
        {"use_qk_norm": True, **ATTENTION_BIAS, **LOUD, **UNTIED},
    ),
    Case("cohere2", "windows, no rope in full layers", {**WINDOW, **LOUD, **layers("sfs")}),
    Case(
        "cohere2",
        "untied, biases, pattern",
        {**WINDOW, "sliding_window_pattern": 2, **ATTENTION_BIAS, **LOUD, **UNTIED},
    ),
    Case("glm4", "half of the head rotated, biases", {"head_dim": 8}),
    Case(
        "glm4",
        "three quarters rotated, no biases, tied",
        {
            **{"head_dim": 8, "attention_bias": False, **TIED},
            **rope(partial_rotary_factor=0.75),
        },
    ),
    Case("starcoder2", "LayerNorm, plain MLP, biases, tied", {}),
    Case(
        "starcoder2",
        "window, no biases, untied",
        {**WINDOW, "use_bias": False, **UNTIED, "hidden_act": "gelu"},
    ),
    Case(
        "gpt_neox", "parallel, a quarter rotated", {"num_key_value_heads": ..., "hidden_size": 64}
    ),
    Case(
        "gpt_neox",
        "one after the other, no attention biases",
        {
            **{"num_key_value_heads": ..., "use_parallel_residual": False, "attention_bias": False},
            **rope(partial_rotary_factor=1.0),
        },
    ),
    Case("mixtral", "3 of 5 experts", LOCAL),
    Case(
        "mixtral",
        "all experts, window, head_dim, tied",
        {**LOCAL, "num_experts_per_tok": 5, **WINDOW, **WIDE_HEADS, **TIED},
    ),
    Case("qwen2_moe", "shared expert, biases", SHARED),
    Case(
        "qwen2_moe",
        "normalised shares, windows, no biases, tied",
        {
            **{**SHARED, "norm_topk_prob": True, "qkv_bias": False, **TIED},
            **{**QWEN_WINDOW, "max_window_layers": 2},
        },
    ),
    Case(
        "qwen2_moe",
        "12 experts, layer_types",
        {**{**SHARED, "num_experts": 12, **QWEN_WINDOW, **layers("sfs")}},
    ),
    Case(
        "qwen2_moe",
        "experts in every second layer, windows",
        {**SHARED, **QWEN_WINDOW, "decoder_sparse_step": 2, **layers("sffsf")},
    ),
    Case("qwen3_moe", "query, key norms, head_dim", {**EXPERTS, **WIDE_HEADS}),
    Case(
        "qwen3_moe",
        "experts in some layers",
        {**EXPERTS, **WIDE_HEADS, "mlp_only_layers": [0, 3], "num_hidden_layers": 6},
    ),
    Case(
        "qwen3_moe",
        "normalised shares, windows, biases, yarn rope, tied",
        {
            **{**EXPERTS, "norm_topk_prob": True, **ATTENTION_BIAS, "head_dim": 8, **TIED},
            **{**QWEN_WINDOW, **YARN},
        },
    ),
    Case("olmoe", "query, key norms over the width", {**ROUTING, "intermediate_size": 20}),
    Case(
        "olmoe",
        "normalised shares, one key-value head, biases, tied",
        {
            **{**ROUTING, "intermediate_size": 20, "norm_topk_prob": True},
            **{**ONE_KV_HEAD, **ATTENTION_BIAS, **TIED},
        },
    ),
    Case(
        "olmoe",
        "all experts",
        {"num_experts_per_tok": 4, "num_experts": 4, "intermediate_size": 20},
    ),
    Case(
        "gpt_oss",
        "sinks, alternating windows, yarn rope",
        {**LOCAL, **WINDOW, "head_dim": 8, "num_hidden_layers": 3, "rope_parameters": SHARP_YARN},
    ),
    Case(
        "gpt_oss",
        "12 experts, no attention biases, low limit, other alpha, tied",
        {
            **{
                **LOCAL,
                "num_local_experts": 12,
                **layers("fs"),
                **WINDOW,
                **WIDE_HEADS,
                **rope(),
                "attention_bias": False,
            },
            **{"swiglu_limit": 0.5, "swiglu_alpha": 0.9, **TIED},
        },
    ),
]


def save(case: Case, directory: Path, dtype: str = "float32", **save_arguments: Any) -> Any:
    """Saves a random model of the case and gives it back, in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {name: v for name, v in (BASE | case.changes).items() if v is not ...}
    config = AutoConfig.for_model(case.family, **fields)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # scales and biases too: all alike, they'd hide swaps
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.2 * noise + (parameter.data if parameter.dim() == 1 else 0)
    model.to(getattr(torch, dtype))
    model.save_pretrained(directory, **save_arguments)
    return model.float().eval()
