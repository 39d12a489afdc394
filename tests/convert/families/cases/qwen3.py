"""The test cases of qwen3."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, QWEN_WINDOW, TIED, WIDE_HEADS, sizes

QWEN3 = {
    **{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "head_dim": 128, "rms_norm_eps": 1e-6, "rope_theta": 1000000},
    **{"sliding_window": None, "use_sliding_window": False, "max_window_layers": 36},
    **{"rope_scaling": None, "tie_word_embeddings": False},
}
CASES = FamilyCases(
    models={
        "query, key norms, head_dim, tied": {**WIDE_HEADS, **TIED},
        "biases, windows": {**ATTENTION_BIAS, "head_dim": 8, **QWEN_WINDOW, "max_window_layers": 2},
    },
    published={
        "Qwen3": {**QWEN3, **sizes(151936, 2560, 9728, 36, 32, 8, 40960)},
        "Qwen3 with YaRN": {
            **{**QWEN3, **sizes(151936, 2560, 9728, 36, 32, 8, 131072)},
            "rope_scaling": {
                **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
        },
        "DeepSeek-R1-0528-Qwen3-8B": {
            **{**QWEN3, **sizes(151936, 4096, 12288, 36, 32, 8, 131072)},
            "rope_scaling": {
                **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
                "attn_factor": 0.8782488562869419,
            },
        },
    },
    told={
        "DeepSeek-R1-0528-Qwen3-8B": ["rope_scaling: attn_factor=0.8782488562869419 has no effect"],
    },
    gguf={"head_dim": 16},
)
