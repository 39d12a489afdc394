"""The test cases of qwen2."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import QWEN_WINDOW, TIED, YARN, layers, sizes

QWEN2 = {
    **{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_act": "silu"},
    **{"rms_norm_eps": 1e-6, "use_sliding_window": False, "rope_theta": 1000000.0},
    **{"tie_word_embeddings": False, "use_mrope": False, "initializer_range": 0.02},
}
CASES = FamilyCases(
    models={
        "query, key, value biases": {},
        "windows from layer 1, tied": {**QWEN_WINDOW, "max_window_layers": 1, **TIED},
        "layer_types, yarn rope": {**QWEN_WINDOW, **YARN, **layers("sfs")},
    },
    published={
        "Qwen 1.5": {
            **{**QWEN2, **sizes(151936, 1024, 2816, 24, 16, 16, 32768), "sliding_window": 32768},
            **{"max_window_layers": 21, "tie_word_embeddings": True},
        },
        "QwQ": {
            **{**QWEN2, **sizes(152064, 5120, 27648, 64, 40, 8, 40960), "sliding_window": 32768},
            "max_window_layers": 64,
        },
        "a Qwen 2.5 with attention_bias": {
            **{**QWEN2, **sizes(152064, 3584, 18944, 28, 28, 4, 32768), "attention_bias": True},
        },
        "the text part of Qwen2.5-VL": {
            **{**QWEN2, **sizes(152064, 3584, 18944, 28, 28, 4, 128000)},
            "rope_scaling": {
                "mrope_section": [16, 24, 24],
                "rope_type": "default",
                "type": "default",
            },
        },
    },
    told={
        "the text part of Qwen2.5-VL": [
            "rope_scaling: mrope_section=[16, 24, 24]",
            "use_mrope=False",
        ],
        "a Qwen 2.5 with attention_bias": ["attention_bias=True has no effect in this family"],
    },
    without_effect=(
        ({"attention_bias": True}, "attention_bias=True has no effect in this family"),
    ),
    refused=(
        (
            {"layer_types": ["sliding_attention"] * 2},
            "layer_types=.*contradicts use_sliding_window",
        ),
        ({"max_window_layers": -1}, "max_window_layers=-1"),
    ),
    gguf={"tie_word_embeddings": True},
)
