"""The test cases of mistral."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import WIDE_HEADS, WINDOW, sizes

MISTRAL = {
    **{"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu"},
    **{"rms_norm_eps": 1e-5, "initializer_range": 0.02, "attention_dropout": 0.0},
    "tie_word_embeddings": False,
}
CASES = FamilyCases(
    models={
        "window": WINDOW,
        "no window, head_dim": {"sliding_window": None, **WIDE_HEADS},
    },
    published={
        "Mistral 7B v0.1": {
            **{**MISTRAL, **sizes(32000, 4096, 14336, 32, 32, 8, 32768)},
            **{"rope_theta": 10000.0, "sliding_window": 4096},
        },
        "Mistral Nemo": {
            **{**MISTRAL, **sizes(131072, 5120, 14336, 40, 32, 8, 1024000), "head_dim": 128},
            **{"rope_theta": 1000000.0, "sliding_window": None},
        },
        "Ministral 8B": {
            **{**MISTRAL, **sizes(131072, 4096, 12288, 36, 32, 8, 32768), "head_dim": 128},
            **{"rope_theta": 100000000.0, "sliding_window": 32768},
        },
    },
    without_effect=(
        ({"use_sliding_window": False}, "use_sliding_window=False has no effect"),
        ({"layer_types": ["sliding_attention"] * 2}, None),
    ),
    gguf={"sliding_window": None, "head_dim": 16},
)
