"""The test cases of cohere."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, LOUD, UNTIED, sizes

CASES = FamilyCases(
    models={
        "LayerNorm, one block, interleaved rope": LOUD,
        "query, key norms, untied": {"use_qk_norm": True, **ATTENTION_BIAS, **LOUD, **UNTIED},
    },
    published={
        "Command R": {
            **{
                "model_type": "cohere",
                "architectures": ["CohereForCausalLM"],
                "hidden_act": "silu",
            },
            **{**sizes(256000, 8192, 22528, 40, 64, 64, 8192), "logit_scale": 0.0625},
            **{"attention_bias": False, "layer_norm_eps": 1e-5, "model_max_length": 131072},
            **{"rope_theta": 8000000.0, "use_qk_norm": False, "pretraining_tp": 1},
        },
    },
    refused=(({"logit_scale": None}, "has no logit_scale"),),
)
