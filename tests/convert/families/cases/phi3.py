"""The test cases of phi3."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import TIED, longrope, sizes

_PHI3 = {
    **{"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "hidden_act": "silu"},
    **{"attention_bias": False, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5},
    **{"rope_theta": 10000.0, "tie_word_embeddings": False, "use_cache": True},
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    },
}
_LONG = {"short_factor": [1.0] * 48, "long_factor": [1.5] * 48}
CASES = FamilyCases(
    models={
        "fused projections": {},
        "longrope, window": {**longrope(4), "sliding_window": 9},
        "longrope of a share of the head, tied": {
            **longrope(3, partial_rotary_factor=0.75),
            **TIED,
        },
    },
    published={
        "Phi-3 4k": {
            **{**_PHI3, **sizes(32064, 3072, 8192, 32, 32, 32, 4096), "sliding_window": 2047},
            **{"original_max_position_embeddings": 4096, "rope_scaling": None},
        },
        "Phi-3.5": {
            **{**_PHI3, **sizes(32064, 3072, 8192, 32, 32, 32, 131072), "sliding_window": 262144},
            **{
                "original_max_position_embeddings": 4096,
                "rope_scaling": {**_LONG, "type": "longrope"},
            },
        },
        "Phi-4": {
            **{**_PHI3, **sizes(100352, 5120, 17920, 40, 40, 10, 16384), "sliding_window": None},
            **{"original_max_position_embeddings": 16384, "rope_theta": 250000},
        },
        "Phi-4-mini": {
            **{**_PHI3, **sizes(200064, 3072, 8192, 32, 24, 8, 131072), "sliding_window": 262144},
            **{
                "full_attn_mod": 1,
                "interpolate_factor": 1,
                "lm_head_bias": False,
                "mlp_bias": False,
            },
            **{"original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75},
            **{"rope_scaling": {**_LONG, "type": "longrope"}, "tie_word_embeddings": True},
        },
        "Phi-4-mini with a default rope": {
            **{**_PHI3, **sizes(200064, 3072, 8192, 32, 24, 8, 4096), "rope_scaling": None},
            **{"partial_rotary_factor": 0.75, "tie_word_embeddings": True},
        },
    },
    refused=(
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling=.*linear"),
        ({"partial_rotary_factor": 2}, "partial_rotary_factor=2"),
        ({"full_attn_mod": 2}, "full_attn_mod=2"),
    ),
    gguf={},
)
