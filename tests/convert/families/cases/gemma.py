"""The test cases of gemma."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import ATTENTION_BIAS, ONE_KV_HEAD, UNTIED, WIDE_HEADS, sizes

CASES = FamilyCases(
    models={
        "one key-value head, head_dim": {**ONE_KV_HEAD, **WIDE_HEADS},
        "untied": {"head_dim": 8, **UNTIED, **ATTENTION_BIAS},
    },
    published={
        "Gemma": {
            **{"model_type": "gemma", "architectures": ["GemmaForCausalLM"], "head_dim": 256},
            **{**sizes(256000, 2048, 16384, 18, 8, 1, 8192), "hidden_act": "gelu"},
            **{"hidden_activation": None, "rms_norm_eps": 1e-6, "rope_scaling": None},
        },
    },
    refused=(
        ({"hidden_activation": "relu"}, "hidden_activation='relu'"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
    ),
    gguf={"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True, "head_dim": 16},
)
