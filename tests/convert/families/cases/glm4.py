"""The test cases of glm4."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import TIED, rope, sizes

CASES = FamilyCases(
    models={
        "half of the head rotated, biases": {"head_dim": 8},
        "three quarters rotated, no biases, tied": {
            **{"head_dim": 8, "attention_bias": False, **TIED},
            **rope(partial_rotary_factor=0.75),
        },
    },
    published={
        "GLM-4-0414": {
            **{"model_type": "glm4", "architectures": ["Glm4ForCausalLM"], "hidden_act": "silu"},
            **{**sizes(151552, 4096, 13696, 40, 32, 2, 32768), "attention_bias": True},
            **{"head_dim": 128, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-5},
            **{"rope_theta": 10000.0, "tie_word_embeddings": False},
        },
    },
    without_effect=(({"mlp_bias": True}, "mlp_bias=True has no effect in this family"),),
)
