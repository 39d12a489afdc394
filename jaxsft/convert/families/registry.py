"""The families that can be read: class, reader, table, and what transformers takes for a field that
is not there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxsft.convert.families import moe_readers, moe_tables, readers, tables, tensor_table
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import Settings


@dataclasses.dataclass(frozen=True)
class Family:
    architecture: str
    read: Callable[[Fields], Settings]
    table: tensor_table.Table
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
        "LlamaForCausalLM", readers.llama, tensor_table.LLAMA, _defaults(2048, mlp_bias=False)
    ),
    "mistral": Family(
        "MistralForCausalLM",
        readers.mistral,
        tensor_table.LLAMA,
        _defaults(131072, num_key_value_heads=8, sliding_window=4096, attention_bias=...),
    ),
    "ministral": Family(
        "MinistralForCausalLM",
        readers.ministral,
        tensor_table.LLAMA,
        _defaults(131072, num_key_value_heads=8, sliding_window=4096, attention_bias=...),
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        readers.qwen2,
        tensor_table.LLAMA,
        _defaults(32768, num_key_value_heads=32, attention_bias=..., **_QWEN),
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        readers.qwen3,
        tensor_table.LLAMA,
        _defaults(32768, num_key_value_heads=32, head_dim=128, **_QWEN),
    ),
    "gemma": Family(
        "GemmaForCausalLM",
        readers.gemma,
        tensor_table.LLAMA,
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
        readers.gemma2,
        tables.GEMMA2,
        _defaults(8192, **_GEMMA_LATER, attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", readers.gemma3, tables.GEMMA2, _defaults(131072, **_GEMMA_LATER)
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        readers.phi3,
        tables.PHI3,
        _defaults(
            4096, rms_norm_eps=1e-5, original_max_position_embeddings=4096, attention_bias=...
        ),
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", readers.olmo2, tables.OLMO2, _defaults(2048, rms_norm_eps=1e-5)
    ),
    "olmo3": Family(
        "Olmo3ForCausalLM",
        readers.olmo3,
        tables.OLMO2,
        _defaults(2048, rms_norm_eps=1e-5, sliding_window=4096),
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        readers.smollm3,
        tensor_table.LLAMA,
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
        readers.granite,
        tensor_table.LLAMA,
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
        readers.cohere,
        tensor_table.LLAMA,
        _defaults(8192, **_COHERE, use_qk_norm=False),
    ),
    "cohere2": Family(
        "Cohere2ForCausalLM",
        readers.cohere2,
        tensor_table.LLAMA,
        _defaults(8192, **_COHERE, sliding_window=4096),
        frozenset({"layer_switch", "use_embedding_sharing", "use_parallel_embedding"}),
    ),
    "glm4": Family(
        "Glm4ForCausalLM",
        readers.glm4,
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
        readers.starcoder2,
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
        readers.gpt_neox,
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
        moe_readers.mixtral,
        moe_tables.MIXTRAL,
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
        moe_readers.qwen2_moe,
        moe_tables.QWEN_MOE,
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
        moe_readers.qwen3_moe,
        moe_tables.QWEN_MOE,
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
        moe_readers.olmoe,
        moe_tables.OLMOE,
        _defaults(4096, num_experts_per_tok=8, norm_topk_prob=False, rms_norm_eps=1e-5),
    ),
    "gpt_oss": Family(
        "GptOssForCausalLM",
        moe_readers.gpt_oss,
        moe_tables.GPT_OSS,
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
