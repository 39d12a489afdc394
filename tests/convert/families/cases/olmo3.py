"""The test cases of olmo3."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import (
    FULL,
    SLIDING,
    WINDOW,
    YARN,
    by_type,
    layers,
    rope,
    sizes,
)

CASES = FamilyCases(
    models={
        "windows, yarn rope in full layers": {
            **WINDOW,
            **layers("sf"),
            **by_type(YARN, rope(theta=50.0)),
        },
        "default pattern": {**WINDOW, "num_hidden_layers": 4},
    },
    published={
        "OLMo 3": {
            **{"model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"], "hidden_act": "silu"},
            **{**sizes(100278, 4096, 11008, 32, 32, 32, 65536), "attention_bias": False},
            **{"layer_types": [SLIDING, SLIDING, SLIDING, FULL] * 8, "rms_norm_eps": 1e-6},
            **{"rope_theta": 500000, "sliding_window": 4096},
            "rope_scaling": {
                **{"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0},
                **{"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "yarn"},
            },
        },
    },
    refused=(({"rope_theta": 10000.0}, "rope_theta=10000.0"),),
)
