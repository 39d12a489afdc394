"""Fields of config.json by the feature that they give a model, to be put together into cases."""

from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"

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
    names = {"s": SLIDING, "f": FULL}
    return {"layer_types": [names[letter] for letter in letters], "num_hidden_layers": len(letters)}


LOUD = {"logit_scale": 1.5}  # the usual 0.0625 would hide differences
WINDOW = {"sliding_window": 7}
QWEN_WINDOW = {**WINDOW, "use_sliding_window": True, "num_hidden_layers": 3}
ROUTING = {"num_experts_per_tok": 2, "num_experts": 6}
EXPERTS = {**ROUTING, "moe_intermediate_size": 20}
SHARED = {**EXPERTS, "shared_expert_intermediate_size": 28}
LOCAL = {"num_experts_per_tok": 3, "num_local_experts": 5, "intermediate_size": 20}


def sizes(*numbers: int) -> dict[str, int]:
    """Seven sizes of a published model."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    return dict(zip(names, numbers, strict=True))
