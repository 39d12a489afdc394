"""The test cases of gemma2."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import UNTIED, WIDE_HEADS, WINDOW, layers, sizes

_GEMMA2 = {
    **{"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "head_dim": 256},
    **{"attention_bias": False, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid"},
    **{"final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6},
    **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256},
    **{"rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096},
}
CASES = FamilyCases(
    models={
        "soft caps, scale, alternating windows": {
            **{**WINDOW, **WIDE_HEADS, "num_hidden_layers": 3, "query_pre_attn_scalar": 20},
            **{"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
        },
        "without soft caps, layer_types, untied": {
            **{**WINDOW, "head_dim": 8, **layers("fs"), **UNTIED},
            **{"attn_logit_softcapping": None, "final_logit_softcapping": None},
        },
    },
    published={
        "Gemma 2": {**_GEMMA2, **sizes(256000, 2304, 9216, 26, 8, 4, 8192)},
    },
    without_effect=(({"hidden_act": "gelu"}, "hidden_act='gelu' has no effect in this family"),),
    refused=(({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar=0"),),
    gguf={
        **{"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "head_dim": 16},
        **{"query_pre_attn_scalar": 16, "sliding_window": 16, "num_hidden_layers": 7},
        **{"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    },
)
