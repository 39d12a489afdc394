"""The test cases of mixtral."""

from tests.convert.families.case_file import FamilyCases
from tests.convert.families.cases.mistral import MISTRAL
from tests.convert.families.features import LOCAL, TIED, WIDE_HEADS, WINDOW, sizes

CASES = FamilyCases(
    models={
        "3 of 5 experts": LOCAL,
        "all experts, window, head_dim, tied": {
            **LOCAL,
            "num_experts_per_tok": 5,
            **WINDOW,
            **WIDE_HEADS,
            **TIED,
        },
    },
    published={
        "Mixtral": {
            **{**MISTRAL, **sizes(32000, 4096, 14336, 32, 32, 8, 32768), "sliding_window": None},
            **{"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
            **{"num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False},
            **{"rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "router_jitter_noise": 0.1},
        },
    },
    told={
        "Mixtral": ["router_jitter_noise=0.1 is not applied in training"],
    },
    without_effect=(
        ({"attention_bias": True}, "attention_bias=True has no effect in this family"),
        ({"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 is not applied in training"),
    ),
    refused=(
        ({"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\]"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types=.*sliding"),
    ),
)
