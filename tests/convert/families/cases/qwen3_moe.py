"""The test cases of qwen3_moe."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.cases.qwen3 import QWEN3
from tests.convert.families.features import (
    ATTENTION_BIAS,
    EXPERTS,
    QWEN_WINDOW,
    TIED,
    WIDE_HEADS,
    YARN,
    sizes,
)

_QWEN3_MOE = {
    **{**QWEN3, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
    **{"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True},
    **{"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    **{"output_router_logits": False, "router_aux_loss_coef": 0.001, "max_window_layers": 48},
}
CASES = FamilyCases(
    models={
        "query, key norms, head_dim": {**EXPERTS, **WIDE_HEADS},
        "experts in some layers": {
            **{**EXPERTS, **WIDE_HEADS, "mlp_only_layers": [0, 3], "num_hidden_layers": 6}
        },
        "normalised shares, windows, biases, yarn rope, tied": {
            **{**EXPERTS, "norm_topk_prob": True, **ATTENTION_BIAS, "head_dim": 8, **TIED},
            **{**QWEN_WINDOW, **YARN},
        },
    },
    published={
        "Qwen3-30B-A3B": {**_QWEN3_MOE, **sizes(151936, 2048, 6144, 48, 32, 4, 40960)},
        "Qwen3-Coder-30B-A3B": {
            **{**_QWEN3_MOE, **sizes(151936, 2048, 5472, 48, 32, 4, 262144), "use_qk_norm": True},
            **{"rope_theta": 10000000, "qkv_bias": False, "shared_expert_intermediate_size": 0},
            "max_window_layers": 28,
        },
    },
    told={
        "Qwen3-Coder-30B-A3B": ["qkv_bias=False", "shared_expert_intermediate_size=0"],
    },
    without_effect=(({"use_qk_norm": True}, None),),
    refused=(
        ({"norm_topk_prob": 1}, "norm_topk_prob=1"),
        ({"mlp_only_layers": [True]}, r"mlp_only_layers=\[True\]"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step=0"),
    ),
)
