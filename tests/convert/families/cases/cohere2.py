"""The test cases of cohere2."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, LOUD, UNTIED, WINDOW, layers, sizes

CASES = FamilyCases(
    models={
        "windows, no rope in full layers": {**WINDOW, **LOUD, **layers("sfs")},
        "untied, biases, pattern": {
            **WINDOW,
            "sliding_window_pattern": 2,
            **ATTENTION_BIAS,
            **LOUD,
            **UNTIED,
        },
    },
    published={
        "Command R7B": {
            **{
                "model_type": "cohere2",
                "architectures": ["Cohere2ForCausalLM"],
                "hidden_act": "silu",
            },
            **{**sizes(256000, 4096, 14336, 32, 32, 8, 8192), "logit_scale": 0.25, "head_dim": 128},
            **{"attention_bias": False, "layer_norm_eps": 1e-5, "layer_switch": 4},
            **{"order_of_interleaved_layers": "local_attn_first", "rotary_pct": 1.0},
            **{"position_embedding_type": "rope_gptj", "rope_scaling": None, "rope_theta": 50000},
            **{"sliding_window": 4096, "use_embedding_sharing": True, "use_gated_activation": True},
            **{"use_parallel_block": True, "use_parallel_embedding": True, "use_qk_norm": False},
        },
    },
    without_effect=(({"use_qk_norm": True}, "use_qk_norm=True has no effect in this family"),),
    refused=(
        ({"use_parallel_block": False}, "use_parallel_block=False"),
        ({"head_dim": 12}, "head_dim=12"),
    ),
)
