"""The test cases of qwen2_moe."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.cases.qwen2 import QWEN2
from tests.convert.families.features import QWEN_WINDOW, SHARED, TIED, layers, sizes

CASES = FamilyCases(
    models={
        "shared expert, biases": SHARED,
        "normalised shares, windows, no biases, tied": {
            **{**SHARED, "norm_topk_prob": True, "qkv_bias": False, **TIED},
            **{**QWEN_WINDOW, "max_window_layers": 2},
        },
        "12 experts, layer_types": {
            **{**SHARED, "num_experts": 12, **QWEN_WINDOW, **layers("sfs")}
        },
        "experts in every second layer, windows": {
            **{**SHARED, **QWEN_WINDOW, "decoder_sparse_step": 2, **layers("sffsf")}
        },
    },
    published={
        "Qwen1.5-MoE": {
            **{**QWEN2, **sizes(151936, 2048, 5632, 24, 16, 16, 8192), "norm_topk_prob": False},
            **{"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"]},
            **{"decoder_sparse_step": 1, "num_experts": 60, "num_experts_per_tok": 4},
            **{"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
            **{"sliding_window": 32768, "max_window_layers": 21, "qkv_bias": True},
        },
    },
    refused=(
        ({"mlp_only_layers": [2]}, r"mlp_only_layers=\[2\].* from 0 to 1 are"),
        ({"qkv_bias": None}, "has no qkv_bias"),
        ({"max_window_layers": -1}, "max_window_layers=-1"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types=.*contradicts"),
    ),
)
