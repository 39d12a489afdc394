"""Fields of config.json as models were published with them, without the long lists."""

from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"
_LLAMA3_ROPE = {
    **{"high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"},
    "original_max_position_embeddings": 8192,
}


def _sizes(*numbers: int) -> dict[str, int]:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    return dict(zip(names, numbers, strict=True))


_LLAMA = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": None},
    **{"initializer_range": 0.02, "tie_word_embeddings": False, "use_cache": True},
}
_MISTRAL = {
    **{"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu"},
    **{"rms_norm_eps": 1e-5, "initializer_range": 0.02, "attention_dropout": 0.0},
    "tie_word_embeddings": False,
}
_QWEN2 = {
    **{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu"},
    **{"rms_norm_eps": 1e-6, "use_sliding_window": False, "rope_theta": 1000000.0},
    **{"tie_word_embeddings": False, "use_mrope": False, "initializer_range": 0.02},
}
_QWEN3 = {
    **{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 1000000},
    **{"sliding_window": None, "use_sliding_window": False, "max_window_layers": 36},
    **{"rope_scaling": None, "tie_word_embeddings": False},
}
_QWEN3_MOE = {
    **{**_QWEN3, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
    **{"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True},
    **{"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    **{"output_router_logits": False, "router_aux_loss_coef": 0.001, "max_window_layers": 48},
}
_PHI3 = {
    **{"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5},
    **{"rope_theta": 10000.0, "tie_word_embeddings": False, "use_cache": True},
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
}
_LONG = {"short_factor": [1.0] * 48, "long_factor": [1.5] * 48}
_GEMMA2 = {
    **{"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "head_dim": 256},
    **{"attention_bias": False, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid"},
    **{"final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6},
    **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
    **{"rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096},
}
_GEMMA3_LINEAR = {"factor": 8.0, "rope_type": "linear"}
_MISTRAL_SMALL = {
    **{"attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "model_type": "mistral"},
    **{**_sizes(131072, 5120, 32768, 40, 32, 8, 131072), "rms_norm_eps": 1e-5},
    **{"rope_theta": 1000000000.0, "sliding_window": None, "use_cache": True},
}
_GRANITE = {
    **{"model_type": "granite", "architectures": ["GraniteForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "attention_multiplier": 0.015625, "embedding_multiplier": 12.0},
    **{"logits_scaling": 8.0, "residual_multiplier": 0.22, "mlp_bias": False},
    **{"rope_scaling": None, "rope_theta": 5000000.0, "rms_norm_eps": 1e-5},
    **{"tie_word_embeddings": True, "attention_dropout": 0.1},
}
_SMOLLM3 = {
    **{"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "layer_types": [FULL] * 36, "max_window_layers": 28},
    **{"mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9},
    **{"pretraining_tp": 2, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 5000000.0},
    **{"sliding_window": None, "use_sliding_window": False},
}
_STARCODER2 = {
    **{"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"]},
    **{"activation_function": "gelu", "hidden_act": "gelu_pytorch_tanh", "use_bias": True},
    **{"attention_dropout": 0.1, "embedding_dropout": 0.1, "residual_dropout": 0.1},
    **{"attention_softmax_in_fp32": True, "scale_attention_softmax_in_fp32": True},
    **{"scale_attn_weights": True, "layer_norm_epsilon": 1e-5, "norm_epsilon": 1e-5},
    **{"mlp_type": "default", "norm_type": "layer_norm", "initializer_range": 0.018042},
    **{"rope_theta": 999999.4420358813, "sliding_window": 4096},
}
_GPT_OSS_ROPE = {
    **{"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn"},
    **{"original_max_position_embeddings": 4096, "truncate": False},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama 1": {
        **{**_LLAMA, "architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048},
        **{**_sizes(32000, 4096, 11008, 32, 32, 32, 2048), "rms_norm_eps": 1e-6},
    },
    "Llama 2": {**_LLAMA, **_sizes(32000, 4096, 11008, 32, 32, 32, 4096), "pretraining_tp": 2},
    "Llama 3.1": {
        **{**_LLAMA, **_sizes(128256, 4096, 14336, 32, 32, 8, 131072), "mlp_bias": False},
        **{"rope_scaling": {"factor": 8.0, **_LLAMA3_ROPE}, "rope_theta": 500000.0},
        "eos_token_id": [128001, 128008, 128009],
    },
    "Llama 3.2": {
        **{**_LLAMA, **_sizes(128256, 2048, 8192, 16, 32, 8, 131072), "head_dim": 64},
        **{"rope_scaling": {"factor": 32.0, **_LLAMA3_ROPE}, "rope_theta": 500000.0},
        "tie_word_embeddings": True,
    },
    "Yarn-Llama": {
        **{**_LLAMA, **_sizes(32000, 4096, 11008, 32, 32, 32, 131072)},
        "rope_scaling": {
            **{"factor": 32.0, "original_max_position_embeddings": 4096, "type": "yarn"},
            "finetuned": True,
        },
    },
    "SmolLM2": {
        **{**_LLAMA, **_sizes(49152, 960, 2560, 32, 15, 5, 8192), "rope_theta": 100000},
        **{"rope_interleaved": False, "is_llama_config": True, "tie_word_embeddings": True},
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    },
    "Mistral 7B v0.1": {
        **{**_MISTRAL, **_sizes(32000, 4096, 14336, 32, 32, 8, 32768)},
        **{"rope_theta": 10000.0, "sliding_window": 4096},
    },
    "Mistral Nemo": {
        **{**_MISTRAL, **_sizes(131072, 5120, 14336, 40, 32, 8, 1024000), "head_dim": 128},
        **{"rope_theta": 1000000.0, "sliding_window": None},
    },
    "Ministral 8B": {
        **{**_MISTRAL, **_sizes(131072, 4096, 12288, 36, 32, 8, 32768), "head_dim": 128},
        **{"rope_theta": 100000000.0, "sliding_window": 32768},
    },
    "Mixtral": {
        **{**_MISTRAL, **_sizes(32000, 4096, 14336, 32, 32, 8, 32768), "sliding_window": None},
        **{"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
        **{"num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False},
        **{"rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.1},
    },
    "Qwen 1.5": {
        **{**_QWEN2, **_sizes(151936, 1024, 2816, 24, 16, 16, 32768), "sliding_window": 32768},
        **{"max_window_layers": 21, "tie_word_embeddings": True},
    },
    "QwQ": {
        **{**_QWEN2, **_sizes(152064, 5120, 27648, 64, 40, 8, 40960), "sliding_window": 32768},
        "max_window_layers": 64,
    },
    "a Qwen 2.5 with attention_bias": {
        **{**_QWEN2, **_sizes(152064, 3584, 18944, 28, 28, 4, 32768), "attention_bias": True},
    },
    "the text part of Qwen2.5-VL": {
        **{**_QWEN2, **_sizes(152064, 3584, 18944, 28, 28, 4, 128000)},
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    },
    "Qwen3": {**_QWEN3, **_sizes(151936, 2560, 9728, 36, 32, 8, 40960)},
    "Qwen3 with YaRN": {
        **{**_QWEN3, **_sizes(151936, 2560, 9728, 36, 32, 8, 131072)},
        "rope_scaling": {
            **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        },
    },
    "DeepSeek-R1-0528-Qwen3-8B": {
        **{**_QWEN3, **_sizes(151936, 4096, 12288, 36, 32, 8, 131072)},
        "rope_scaling": {
            **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            "attn_factor": 0.8782488562869419,
        },
    },
    "Qwen3-30B-A3B": {**_QWEN3_MOE, **_sizes(151936, 2048, 6144, 48, 32, 4, 40960)},
    "Qwen3-Coder-30B-A3B": {
        **{**_QWEN3_MOE, **_sizes(151936, 2048, 5472, 48, 32, 4, 262144), "use_qk_norm": True},
        **{"rope_theta": 10000000, "qkv_bias": False, "shared_expert_intermediate_size": 0},
        "max_window_layers": 28,
    },
    "Qwen1.5-MoE": {
        **{**_QWEN2, **_sizes(151936, 2048, 5632, 24, 16, 16, 8192), "norm_topk_prob": False},
        **{"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"]},
        **{"decoder_sparse_step": 1, "num_experts": 60, "num_experts_per_tok": 4},
        **{"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        **{"sliding_window": 32768, "max_window_layers": 21, "qkv_bias": True},
    },
    "Gemma": {
        **{"model_type": "gemma", "architectures": ["GemmaForCausalLM"], "head_dim": 256},
        **{**_sizes(256000, 2048, 16384, 18, 8, 1, 8192), "hidden_act": "gelu"},
        **{"hidden_activation": None, "rms_norm_eps": 1e-6, "rope_scaling": None},
    },
    "Gemma 2": {**_GEMMA2, **_sizes(256000, 2304, 9216, 26, 8, 4, 8192)},
    "Gemma 3 1B": {
        **{"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "head_dim": 256},
        **{**_sizes(262144, 1152, 6912, 26, 4, 1, 32768), "attn_logit_softcapping": None},
        **{"cache_implementation": "hybrid", "final_logit_softcapping": None},
        **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
        **{"rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000},
        **{"sliding_window": 512, "sliding_window_pattern": 6},
    },
    "Gemma 3 4B": {
        **{"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        **{"boi_token_index": 255999, "eos_token_id": [1, 106], "image_token_index": 262144},
        "text_config": {
            **{"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text"},
            **{"num_hidden_layers": 34, "rope_scaling": _GEMMA3_LINEAR, "sliding_window": 1024},
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    },
    "Gemma 3 27B": {
        **{"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        "text_config": {
            **{"head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504},
            **{"model_type": "gemma3_text", "num_attention_heads": 32, "num_hidden_layers": 62},
            **{"num_key_value_heads": 16, "query_pre_attn_scalar": 168, "sliding_window": 1024},
            "rope_scaling": _GEMMA3_LINEAR,
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    },
    "Mistral Small 3.1": {
        **{"model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"]},
        **{"image_token_index": 10, "vision_feature_layer": -1, "spatial_merge_size": 2},
        **{"text_config": _MISTRAL_SMALL, "vision_config": {"model_type": "pixtral"}},
    },
    "LLaVA 1.5": {
        **{"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]},
        **{"image_token_index": 32000, "vision_feature_layer": -2},
        "text_config": {
            **{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096},
            **{"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": 32064},
        },
        "vision_config": {"model_type": "clip_vision_model"},
    },
    "Phi-3 4k": {
        **{**_PHI3, **_sizes(32064, 3072, 8192, 32, 32, 32, 4096), "sliding_window": 2047},
        **{"original_max_position_embeddings": 4096, "rope_scaling": None},
    },
    "Phi-3.5": {
        **{**_PHI3, **_sizes(32064, 3072, 8192, 32, 32, 32, 131072), "sliding_window": 262144},
        **{"original_max_position_embeddings": 4096, "rope_scaling": {**_LONG, "type": "longrope"}},
    },
    "Phi-4": {
        **{**_PHI3, **_sizes(100352, 5120, 17920, 40, 40, 10, 16384), "sliding_window": None},
        **{"original_max_position_embeddings": 16384, "rope_theta": 250000},
    },
    "Phi-4-mini": {
        **{**_PHI3, **_sizes(200064, 3072, 8192, 32, 24, 8, 131072), "sliding_window": 262144},
        **{"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False},
        **{"original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75},
        **{"rope_scaling": {**_LONG, "type": "longrope"}, "tie_word_embeddings": True},
    },
    "Phi-4-mini with a default rope": {
        **{**_PHI3, **_sizes(200064, 3072, 8192, 32, 24, 8, 4096), "rope_scaling": None},
        **{"partial_rotary_factor": 0.75, "tie_word_embeddings": True},
    },
    "OLMo 2": {
        **{"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_act": "silu"},
        **{**_sizes(100352, 4096, 11008, 32, 32, 32, 4096), "attention_bias": False},
        **{"rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000, "clip_qkv": None},
    },
    "OLMo 3": {
        **{"model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"], "hidden_act": "silu"},
        **{**_sizes(100278, 4096, 11008, 32, 32, 32, 65536), "attention_bias": False},
        **{"layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 8, "rms_norm_eps": 1e-6},
        **{"rope_theta": 500000, "sliding_window": 4096},
        "rope_scaling": {
            **{"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0},
            **{"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"},
        },
    },
    "OLMoE": {
        **{"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "hidden_act": "silu"},
        **{**_sizes(50304, 2048, 1024, 16, 16, 16, 4096), "attention_bias": False},
        **{"clip_qkv": None, "norm_topk_prob": False, "num_experts": 64, "num_experts_per_tok": 8},
        **{"rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0},
    },
    "Granite 3": {**_GRANITE, **_sizes(49155, 2048, 8192, 40, 32, 8, 131072)},
    "Command R": {
        **{"model_type": "cohere", "architectures": ["CohereForCausalLM"], "hidden_act": "silu"},
        **{**_sizes(256000, 8192, 22528, 40, 64, 64, 8192), "logit_scale": 0.0625},
        **{"attention_bias": False, "layer_norm_eps": 1e-5, "model_max_length": 131072},
        **{"rope_theta": 8000000.0, "use_qk_norm": False, "pretraining_tp": 1},
    },
    "Command R7B": {
        **{"model_type": "cohere2", "architectures": ["Cohere2ForCausalLM"], "hidden_act": "silu"},
        **{**_sizes(256000, 4096, 14336, 32, 32, 8, 8192), "logit_scale": 0.25, "head_dim": 128},
        **{"attention_bias": False, "layer_norm_eps": 1e-5, "layer_switch": 4},
        **{"order_of_interleaved_layers": "local_attn_first", "rotary_pct": 1.0},
        **{"position_embedding_type": "rope_gptj", "rope_scaling": None, "rope_theta": 50000},
        **{"sliding_window": 4096, "use_embedding_sharing": True, "use_gated_activation": True},
        **{"use_parallel_block": True, "use_parallel_embedding": True, "use_qk_norm": False},
    },
    "GLM-4-0414": {
        **{"model_type": "glm4", "architectures": ["Glm4ForCausalLM"], "hidden_act": "silu"},
        **{**_sizes(151552, 4096, 13696, 40, 32, 2, 32768), "attention_bias": True},
        **{"head_dim": 128, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5},
        **{"rope_theta": 10000.0, "tie_word_embeddings": False},
    },
    "SmolLM3": {**_SMOLLM3, **_sizes(128256, 2048, 11008, 36, 16, 4, 65536)},
    "StarCoder2": {**_STARCODER2, **_sizes(49152, 3072, 12288, 30, 24, 2, 16384)},
    "Pythia": {
        **{"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]},
        **{"vocab_size": 50304, "hidden_size": 768, "intermediate_size": 3072},
        **{"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu"},
        **{"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "rotary_emb_base": 10000},
        **{"rotary_pct": 0.25, "use_parallel_residual": True, "tie_word_embeddings": False},
        "classifier_dropout": 0.1,
    },
    "gpt-oss": {
        **{"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "hidden_act": "silu"},
        **{**_sizes(201088, 2880, 2880, 24, 64, 8, 131072), "head_dim": 64, "attention_bias": True},
        **{"experts_per_token": 4, "initial_context_length": 4096, "swiglu_limit": 7.0},
        **{"layer_types": [SLIDING, FULL] * 12, "num_experts_per_tok": 4, "num_local_experts": 32},
        **{"rms_norm_eps": 1e-5, "rope_scaling": _GPT_OSS_ROPE, "rope_theta": 150000},
        **{"sliding_window": 128, "output_router_logits": False},
    },
}
