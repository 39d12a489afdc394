"""The test cases of gemma3_text."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import WIDE_HEADS, WINDOW, by_type, layers, rope, sizes

CASES = FamilyCases(
    models={
        "two ropes, one scaled, window pattern": {
            **{**WINDOW, **WIDE_HEADS, "num_hidden_layers": 3, "sliding_window_pattern": 2},
            **by_type(rope("linear", 5000.0, factor=8.0), rope(theta=50.0)),
        },
        "soft cap of logits, layer_types, scale": {
            **{**WINDOW, "head_dim": 8, **layers("sf"), "query_pre_attn_scalar": 20},
            **{"final_logit_softcapping": 2.0},
        },
    },
    published={
        "Gemma 3 1B": {
            **{
                "model_type": "gemma3_text",
                "architectures": ["Gemma3ForCausalLM"],
                "head_dim": 256,
            },
            **{**sizes(262144, 1152, 6912, 26, 4, 1, 32768), "attn_logit_softcapping": None},
            **{"cache_implementation": "hybrid", "final_logit_softcapping": None},
            **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
            **{"rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000},
            **{"sliding_window": 512, "sliding_window_pattern": 6},
        },
    },
    without_effect=(({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping has no effect"),),
    refused=(
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters: rope_theta=5.0"),
        ({"rope_parameters": {"sliding_attention": 5}}, "sliding_attention=5"),
    ),
    gguf={
        **{"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "head_dim": 16},
        **{"query_pre_attn_scalar": 16, "sliding_window": 16, "num_hidden_layers": 7},
    },
)
