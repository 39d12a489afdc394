"""The test cases of granite."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, TIED, sizes

_GRANITE = {
    **{"model_type": "granite", "architectures": ["GraniteForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "attention_multiplier": 0.015625, "embedding_multiplier": 12.0},
    **{"logits_scaling": 8.0, "residual_multiplier": 0.22, "mlp_bias": False},
    **{"rope_scaling": None, "rope_theta": 5000000.0, "rms_norm_eps": 1e-5},
    **{"tie_word_embeddings": True, "attention_dropout": 0.1},
}
CASES = FamilyCases(
    models={
        "four multipliers": {
            **{"embedding_multiplier": 6.0, "residual_multiplier": 0.3},
            **{"attention_multiplier": 0.2, "logits_scaling": 3.0},
        },
        "biases, tied": {**ATTENTION_BIAS, "mlp_bias": True, "attention_multiplier": 0.3, **TIED},
    },
    published={
        "Granite 3": {**_GRANITE, **sizes(49155, 2048, 8192, 40, 32, 8, 131072)},
    },
    refused=(({"logits_scaling": 0}, "logits_scaling=0"),),
)
