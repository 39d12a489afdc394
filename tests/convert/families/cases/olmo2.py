"""The test cases of olmo2."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, ONE_KV_HEAD, TIED, sizes

CASES = FamilyCases(
    models={
        "query, key norms over the width": {},
        "one key-value head, biases": {**ONE_KV_HEAD, **ATTENTION_BIAS, **TIED},
    },
    published={
        "OLMo 2": {
            **{"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_act": "silu"},
            **{**sizes(100352, 4096, 11008, 32, 32, 32, 4096), "attention_bias": False},
            **{"rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 500000, "clip_qkv": None},
        },
    },
    refused=(({"clip_qkv": 8.0}, "clip_qkv=8.0"),),
)
