"""The test cases of llama."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import (
    ATTENTION_BIAS,
    DYNAMIC,
    LINEAR,
    LLAMA3,
    MSCALE_YARN,
    ONE_KV_HEAD,
    SHARP_YARN,
    TIED,
    WIDE_HEADS,
    YARN,
    sizes,
)

_LLAMA3_ROPE = {
    **{"high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3"},
    "original_max_position_embeddings": 8192,
}
_LLAMA = {
    **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": None},
    **{"initializer_range": 0.02, "tie_word_embeddings": False, "use_cache": True},
}
CASES = FamilyCases(
    models={
        "grouped heads, llama3 rope, tied": {**LLAMA3, **TIED},
        "biases, head_dim, linear rope": {**ATTENTION_BIAS, "mlp_bias": True, **LINEAR},
        "one key-value head, dynamic rope": {
            **ONE_KV_HEAD,
            **DYNAMIC,
            "max_position_embeddings": 20,
        },
        "yarn rope": {**WIDE_HEADS, **YARN},
        "yarn with betas, not truncated": {"rope_parameters": SHARP_YARN},
        "yarn with mscales": {"rope_parameters": MSCALE_YARN},
    },
    published={
        "Llama 1": {
            **{**_LLAMA, "architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048},
            **{**sizes(32000, 4096, 11008, 32, 32, 32, 2048), "rms_norm_eps": 1e-6},
        },
        "Llama 2": {**_LLAMA, **sizes(32000, 4096, 11008, 32, 32, 32, 4096), "pretraining_tp": 2},
        "Llama 3.1": {
            **{**_LLAMA, **sizes(128256, 4096, 14336, 32, 32, 8, 131072), "mlp_bias": False},
            **{"rope_scaling": {"factor": 8.0, **_LLAMA3_ROPE}, "rope_theta": 500000.0},
            "eos_token_id": [128001, 128008, 128009],
        },
        "Llama 3.2": {
            **{**_LLAMA, **sizes(128256, 2048, 8192, 16, 32, 8, 131072), "head_dim": 64},
            **{"rope_scaling": {"factor": 32.0, **_LLAMA3_ROPE}, "rope_theta": 500000.0},
            "tie_word_embeddings": True,
        },
        "Yarn-Llama": {
            **{**_LLAMA, **sizes(32000, 4096, 11008, 32, 32, 32, 131072)},
            "rope_scaling": {
                **{"factor": 32.0, "original_max_position_embeddings": 4096, "type": "yarn"},
                "finetuned": True,
            },
        },
        "SmolLM2": {
            **{**_LLAMA, **sizes(49152, 960, 2560, 32, 15, 5, 8192), "rope_theta": 100000},
            **{"rope_interleaved": False, "is_llama_config": True, "tie_word_embeddings": True},
            "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        },
    },
    told={
        "Yarn-Llama": ["rope_scaling: finetuned=True has no effect"],
        "SmolLM2": ["unknown field is_llama_config"],
    },
    without_effect=(
        ({"pretraining_tp": 2}, None),
        ({"use_qk_norm": True}, "use_qk_norm=True has no effect in this family"),
        ({"use_sliding_window": True}, None),
        ({"sliding_window": 2048}, None),  # no text is longer
        ({"layer_types": ["attention"] * 2}, None),
        ({"no_rope_layers": [], "architectures": []}, None),
        ({"architectures": ["FSDPLlamaForCausalLM"]}, None),
    ),
    gguf={},
)
