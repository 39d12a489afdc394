"""The test cases of gpt_oss."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import (
    FULL,
    LOCAL,
    SHARP_YARN,
    SLIDING,
    TIED,
    WIDE_HEADS,
    WINDOW,
    layers,
    rope,
    sizes,
)

_GPT_OSS_ROPE = {
    **{"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn"},
    **{"original_max_position_embeddings": 4096, "truncate": False},
}
CASES = FamilyCases(
    models={
        "sinks, alternating windows, yarn rope": {
            **LOCAL,
            **WINDOW,
            "head_dim": 8,
            "num_hidden_layers": 3,
            "rope_parameters": SHARP_YARN,
        },
        "12 experts, no attention biases, low limit, other alpha, tied": {
            **{
                **LOCAL,
                "num_local_experts": 12,
                **layers("fs"),
                **WINDOW,
                **WIDE_HEADS,
                **rope(),
                "attention_bias": False,
            },
            **{"swiglu_limit": 0.5, "swiglu_alpha": 0.9, **TIED},
        },
    },
    published={
        "gpt-oss": {
            **{
                "model_type": "gpt_oss",
                "architectures": ["GptOssForCausalLM"],
                "hidden_act": "silu",
            },
            **{
                **sizes(201088, 2880, 2880, 24, 64, 8, 131072),
                "head_dim": 64,
                "attention_bias": True,
            },
            **{"experts_per_token": 4, "initial_context_length": 4096, "swiglu_limit": 7.0},
            **{
                "layer_types": [SLIDING, FULL] * 12,
                "num_experts_per_tok": 4,
                "num_local_experts": 32,
            },
            **{"rms_norm_eps": 1e-5, "rope_scaling": _GPT_OSS_ROPE, "rope_theta": 150000},
            **{"sliding_window": 128, "output_router_logits": False},
        },
    },
    refused=(
        ({"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\]"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ({"experts_per_token": 4}, "experts_per_token=4 is not supported; 2 is"),
        ({"swiglu_limit": 0}, "swiglu_limit=0"),
        ({"layer_types": ["sliding_attention"]}, "layer_types="),
    ),
)
