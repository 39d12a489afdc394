"""The test cases of starcoder2."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import UNTIED, WINDOW, sizes

_STARCODER2 = {
    **{"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"]},
    **{"activation_function": "gelu", "hidden_act": "gelu_pytorch_tanh", "use_bias": True},
    **{"attention_dropout": 0.1, "embedding_dropout": 0.1, "residual_dropout": 0.1},
    **{"attention_softmax_in_fp32": True, "scale_attention_softmax_in_fp32": True},
    **{"scale_attn_weights": True, "layer_norm_epsilon": 1e-5, "norm_epsilon": 1e-5},
    **{"mlp_type": "default", "norm_type": "layer_norm", "initializer_range": 0.018042},
    **{"rope_theta": 999999.4420358813, "sliding_window": 4096},
}
CASES = FamilyCases(
    models={
        "LayerNorm, plain MLP, biases, tied": {},
        "window, no biases, untied": {**WINDOW, "use_bias": False, **UNTIED, "hidden_act": "gelu"},
    },
    published={
        "StarCoder2": {**_STARCODER2, **sizes(49152, 3072, 12288, 30, 24, 2, 16384)},
    },
    told={
        "StarCoder2": ["activation_function='gelu' has no effect"],
    },
    without_effect=(
        ({"activation_function": "gelu_pytorch_tanh"}, None),
        ({"activation_function": "relu"}, "activation_function='relu' has no effect"),
    ),
    refused=(({"norm_type": "rms"}, "norm_type='rms'"),),
)
