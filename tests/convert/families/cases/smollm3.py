"""The test cases of smollm3."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, FULL, UNTIED, WINDOW, sizes

_SMOLLM3 = {
    **{"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "layer_types": [FULL] * 36, "max_window_layers": 28},
    **{"mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9},
    **{"pretraining_tp": 2, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 5000000.0},
    **{"sliding_window": None, "use_sliding_window": False},
}
CASES = FamilyCases(
    models={
        "layers without rope": {"no_rope_layers": [0, 1]},
        "windows where there is no rope, biases, untied": {
            **{**WINDOW, "use_sliding_window": True, "no_rope_layer_interval": 2, **UNTIED},
            **{**ATTENTION_BIAS, "mlp_bias": True, "num_hidden_layers": 3},
        },
    },
    published={
        "SmolLM3": {**_SMOLLM3, **sizes(128256, 2048, 11008, 36, 16, 4, 65536)},
    },
    without_effect=(({"pretraining_tp": 2, "max_window_layers": 1}, None),),
    refused=(({"no_rope_layers": [1]}, r"no_rope_layers=\[1\]"),),
)
