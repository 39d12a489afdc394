"""Published models with experts: their config.json gives the published numbers of parameters."""

import jax
import numpy as np
import pytest

from jaxsft.convert.families.config_json import settings_from_config
from jaxsft.model import moe_settings, state

QWEN = {"decoder_sparse_step": 1, "mlp_only_layers": [], "use_sliding_window": False}
ROPE = {"rope_theta": 10000.0, "rope_scaling": None}
YARN = {
    **{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0},
    **{"original_max_position_embeddings": 4096, "truncate": False},
}


def shape(vocab, width, layers, heads, kv_heads, mlp, experts, used, name="num_experts"):
    return {
        **{"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads},
        **{"intermediate_size": mlp, name: experts, "num_experts_per_tok": used, **ROPE},
    }


# The fields of each config.json that matter; billions of parameters in all, and used by a token.
# Source: model cards of mistralai/Mixtral-8x7B-v0.1, Qwen/Qwen1.5-MoE-A2.7B, Qwen/Qwen3-30B-A3B,
# allenai/OLMoE-1B-7B-0924 and openai/gpt-oss-20b (which does not count the embedding as used).
PUBLISHED = {
    "mixtral": (shape(32000, 4096, 32, 32, 8, 14336, 8, 2, "num_local_experts"), 46.7, 12.9),
    "qwen2_moe": (
        shape(151936, 2048, 24, 16, 16, 5632, 60, 4)
        | {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632}
        | {"max_window_layers": 21, "sliding_window": 32768, **QWEN},
        14.3,
        2.7,
    ),
    "qwen3_moe": (
        shape(151936, 2048, 48, 32, 4, 6144, 128, 8)
        | {"head_dim": 128, "moe_intermediate_size": 768, "norm_topk_prob": True}
        | {"max_window_layers": 48, "sliding_window": None, **QWEN},
        30.5,
        3.3,
    ),
    "olmoe": (shape(50304, 2048, 16, 16, 16, 1024, 64, 8) | {"clip_qkv": None}, 6.9, 1.3),
    "gpt_oss": (
        shape(201088, 2880, 24, 64, 8, 2880, 32, 4, "num_local_experts")
        | {"head_dim": 64, "attention_bias": True, "rope_theta": 150000, "rope_scaling": YARN}
        | {"experts_per_token": 4, "initial_context_length": 4096, "swiglu_limit": 7.0},
        20.9,
        3.6,
    ),
}


def size(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("family", PUBLISHED)
def test_parameters_number_as_published(family):
    config, billions, used_billions = PUBLISHED[family]
    s, notes = settings_from_config({"model_type": family} | config, "config.json")
    assert notes == []
    _, shapes, _ = state.abstract(s, "float32", "none")
    assert size(shapes) / 1e9 == pytest.approx(billions, abs=0.06)
    used = size(shapes) - size(shapes["layers"]["moe"])
    used += s.num_layers * moe_settings.active_parameters(s.moe, s.embed_dim)
    used -= size(shapes["embedding_VD"]) if family == "gpt_oss" else 0
    assert used / 1e9 == pytest.approx(used_billions, abs=0.06)
