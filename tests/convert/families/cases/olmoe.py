"""The test cases of olmoe."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, ONE_KV_HEAD, ROUTING, TIED, sizes

CASES = FamilyCases(
    models={
        "query, key norms over the width": {**ROUTING, "intermediate_size": 20},
        "normalised shares, one key-value head, biases, tied": {
            **{**ROUTING, "intermediate_size": 20, "norm_topk_prob": True},
            **{**ONE_KV_HEAD, **ATTENTION_BIAS, **TIED},
        },
        "all experts": {"num_experts_per_tok": 4, "num_experts": 4, "intermediate_size": 20},
    },
    published={
        "OLMoE": {
            **{"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "hidden_act": "silu"},
            **{**sizes(50304, 2048, 1024, 16, 16, 16, 4096), "attention_bias": False},
            **{
                "clip_qkv": None,
                "norm_topk_prob": False,
                "num_experts": 64,
                "num_experts_per_tok": 8,
            },
            **{"rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0},
        },
    },
    refused=(
        ({"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\]"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ({"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ({"head_dim": 12}, "head_dim=12"),
        ({"sliding_window": 8}, "sliding_window=8"),
    ),
)
