"""The test cases of gpt_neox."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.features import rope

CASES = FamilyCases(
    models={
        "parallel, a quarter rotated": {"num_key_value_heads": ..., "hidden_size": 64},
        "one after the other, no attention biases": {
            **{"num_key_value_heads": ..., "use_parallel_residual": False, "attention_bias": False},
            **rope(partial_rotary_factor=1.0),
        },
    },
    published={
        "Pythia": {
            **{"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]},
            **{"vocab_size": 50304, "hidden_size": 768, "intermediate_size": 3072},
            **{"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "gelu"},
            **{"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "rotary_emb_base": 10000},
            **{"rotary_pct": 0.25, "use_parallel_residual": True, "tie_word_embeddings": False},
            "classifier_dropout": 0.1,
        },
    },
    refused=(
        ({"use_parallel_residual": "no"}, "use_parallel_residual='no'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ({"head_dim": 12}, "head_dim=12"),
    ),
)
