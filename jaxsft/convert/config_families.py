"""The families that can be read: class, reader, table, and what transformers takes for a field that
is not there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxsft.convert import config_moe, config_readers, families, tables, tables_moe
from jaxsft.convert.config_parts import Settings
from jaxsft.convert.fields import Fields


@dataclasses.dataclass(frozen=True)
class Family:
    architecture: str
    read: Callable[[Fields], Settings]
    table: families.Table
    defaults: Mapping[str, Any]  # of transformers, for a field that is not there
    harmless: frozenset[str] = frozenset()  # fields that change nothing in this family


def _defaults(max_positions: int, **others: Any) -> dict[str, Any]:
    common = {
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": max_positions,
    }
    return {name: value for name, value in (common | others).items() if value is not ...}


_QWEN = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
_GEMMA_LATER = {
    **{"tie_word_embeddings": True, "hidden_act": ..., "num_key_value_heads": 4, "head_dim": 256},
    **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
    **{"sliding_window": 4096},
}
_COHERE = {
    **{"tie_word_embeddings": True, "rms_norm_eps": ..., "layer_norm_eps": 1e-5},
    **{"logit_scale": 0.0625},
}
FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM", config_readers.llama, families.LLAMA, _defaults(2048, mlp_bias=False)
    ),
    "mistral": Family(
        "MistralForCausalLM",
        config_readers.mistral,
        families.LLAMA,
        _defaults(131072, num_key_value_heads=8, sliding_window=4096, attention_bias=...),
    ),
    "ministral": Family(
        "MinistralForCausalLM",
        config_readers.ministral,
        families.LLAMA,
        _defaults(131072, num_key_value_heads=8, sliding_window=4096, attention_bias=...),
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        config_readers.qwen2,
        families.LLAMA,
        _defaults(32768, num_key_value_heads=32, attention_bias=..., **_QWEN),
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        config_readers.qwen3,
        families.LLAMA,
        _defaults(32768, num_key_value_heads=32, head_dim=128, **_QWEN),
    ),
    "gemma": Family(
        "GemmaForCausalLM",
        config_readers.gemma,
        families.LLAMA,
        _defaults(
            8192,
            num_key_value_heads=16,
            head_dim=256,
            tie_word_embeddings=True,
            hidden_act="gelu_pytorch_tanh",
        ),
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        config_readers.gemma2,
        tables.GEMMA2,
        _defaults(8192, **_GEMMA_LATER, attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", config_readers.gemma3, tables.GEMMA2, _defaults(131072, **_GEMMA_LATER)
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        config_readers.phi3,
        tables.PHI3,
        _defaults(
            4096, rms_norm_eps=1e-5, original_max_position_embeddings=4096, attention_bias=...
        ),
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", config_readers.olmo2, tables.OLMO2, _defaults(2048, rms_norm_eps=1e-5)
    ),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        config_readers.olmo3,
        tables.OLMO2,
        _defaults(2048, rms_norm_eps=1e-5, sliding_window=4096),
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        config_readers.smollm3,
        families.LLAMA,
        _defaults(
            32768,
            num_key_value_heads=4,
            tie_word_embeddings=True,
            mlp_bias=False,
            use_sliding_window=False,
            no_rope_layer_interval=4,
        ),
        frozenset({"max_window_layers"}),
    ),
    "granite": Family(
        "GraniteForCausalLM",
        config_readers.granite,
        families.LLAMA,
        _defaults(
            2048,
            mlp_bias=False,
            embedding_multiplier=1.0,
            residual_multiplier=1.0,
            attention_multiplier=1.0,
            logits_scaling=1.0,
        ),
    ),
    "cohere": Family(
        "CohereForCausalLM",
        config_readers.cohere,
        families.LLAMA,
        _defaults(8192, **_COHERE, use_qk_norm=False),
    ),
    "cohere2": Family(
        "Cohere2ForCausalLM",
        config_readers.cohere2,
        families.LLAMA,
        _defaults(8192, **_COHERE, sliding_window=4096),
        frozenset({"layer_switch", "use_embedding_sharing", "use_parallel_embedding"}),
    ),
    "glm4": Family(
        "Glm4ForCausalLM",
        config_readers.glm4,
        tables.GLM4,
        _defaults(
            131072,
            num_key_value_heads=2,
            head_dim=128,
            rms_norm_eps=0.00000015625,
            attention_bias=True,
        ),
    ),
    "starcoder2": Family(
        "Starcoder2ForCausalLM",
        config_readers.starcoder2,
        tables.STARCODER2,
        _defaults(
            4096,
            num_key_value_heads=2,
            hidden_act="gelu_pytorch_tanh",
            tie_word_embeddings=True,
            initializer_range=0.018042,
            norm_epsilon=1e-5,
            use_bias=True,
            rms_norm_eps=...,
            attention_bias=...,
        ),
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        config_readers.gpt_neox,
        tables.GPT_NEOX,
        _defaults(
            2048,
            hidden_act="gelu",
            attention_bias=True,
            layer_norm_eps=1e-5,
            use_parallel_residual=True,
            rms_norm_eps=...,
        ),
    ),
    "mixtral": Family(
        "MixtralForCausalLM",
        config_moe.mixtral,
        tables_moe.MIXTRAL,
        _defaults(
            131072,
            num_key_value_heads=8,
            num_experts_per_tok=2,
            rms_norm_eps=1e-5,
            attention_bias=...,
        ),
    ),
    "qwen2_moe": Family(
        "Qwen2MoeForCausalLM",
        config_moe.qwen2_moe,
        tables_moe.QWEN_MOE,
        _defaults(
            32768,
            num_key_value_heads=16,
            num_experts_per_tok=4,
            norm_topk_prob=False,
            qkv_bias=True,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            attention_bias=...,
            **_QWEN,
        ),
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        config_moe.qwen3_moe,
        tables_moe.QWEN_MOE,
        _defaults(
            32768,
            num_key_value_heads=4,
            num_experts_per_tok=8,
            norm_topk_prob=False,
            moe_intermediate_size=768,
            sliding_window=4096,
            use_sliding_window=False,
        ),
        frozenset({"max_window_layers", "use_qk_norm"}),  # it has these norms
    ),
    "olmoe": Family(
        "OlmoeForCausalLM",
        config_moe.olmoe,
        tables_moe.OLMOE,
        _defaults(4096, num_experts_per_tok=8, norm_topk_prob=False, rms_norm_eps=1e-5),
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        config_moe.gpt_oss,
        tables_moe.GPT_OSS,
        _defaults(
            131072,
            num_key_value_heads=8,
            head_dim=64,
            num_experts_per_tok=4,
            rms_norm_eps=1e-5,
            attention_bias=True,
            sliding_window=128,
            swiglu_alpha=1.702,
            swiglu_limit=7.0,
        ),
        frozenset({"initial_context_length"}),
    ),
}
