"""How config.json is read in the families with a mixture of experts.

Their router_aux_loss_coef belongs to a loss that training here does not have (see step.py).
"""

from typing import Any

from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import (
    SLIDING,
    Settings,
    attention_bias,
    head_dim,
    kinds,
    layer_types,
    same_window,
    window_types,
    windows,
)
from jaxsft.model.moe_settings import ClampedSwiGLU, MoeSettings
from jaxsft.model.settings import NormSettings, QkNorm, Rope

# Of transformers, where config.json has none; what was published has the same.
_GPT_OSS_ROPE = {
    **{"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
    **{"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
}
_SILU = {"silu": None, "swish": None}  # what the experts compute; they have no other activation


def _num_experts(fields: Fields) -> int:
    """Which of two names it has depends on the version of transformers that wrote it."""
    names = ("num_local_experts", "num_experts")
    found = [name for name in names if fields.raw(name) is not None]
    for name in found[1:]:
        fields.only(name, fields.raw(found[0]))
    return fields.count(found[0] if found else names[0])


def _moe(fields: Fields, mlp_dim: str, *, normalised: bool, **others: Any) -> MoeSettings:
    fields.choice("hidden_act", _SILU)
    num_experts, per_token = _num_experts(fields), fields.count("num_experts_per_tok")
    if per_token > num_experts:
        raise fields.refuse("num_experts_per_tok", f"is more than the {num_experts} experts")
    return MoeSettings(
        num_experts=num_experts,
        experts_per_token=per_token,
        expert_mlp_dim=fields.count(mlp_dim),
        normalised_shares=normalised,
        init_stddev=fields.positive("initializer_range"),
        **others,
    )


def _in_some_layers(fields: Fields, moe: MoeSettings) -> Settings:
    """Experts in every decoder_sparse_step-th layer that mlp_only_layers doesn't name."""
    num_layers, step = fields.count("num_hidden_layers"), fields.maybe_count("decoder_sparse_step")
    named = fields.raw("mlp_only_layers") or []
    known = range(num_layers)
    if not isinstance(named, list) or any(type(i) is not int or i not in known for i in named):
        wanted = f"is not supported; layers from 0 to {num_layers - 1} are"
        raise fields.refuse("mlp_only_layers", wanted)
    dense = tuple(i for i in known if i in named or (i + 1) % (step or 1))
    return {"moe": moe, "dense_layers": dense} if len(dense) < num_layers else {}


def _plain(fields: Fields, theta: float) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=theta)
    return {"norm_eps": fields.positive("rms_norm_eps"), "rope": rope}


def mixtral(fields: Fields) -> Settings:
    plain = _plain(fields, theta=1e6)
    return {
        **plain,
        **same_window(fields, plain["rope"]),
        "moe": _moe(fields, "intermediate_size", normalised=True),
    }


def _qwen2_windows(fields: Fields, rope: Rope) -> Settings:
    """As in transformers 5; no published model has windows."""
    below = fields.natural("max_window_layers")
    types = window_types(fields, lambda layer: layer % 2 == 0 and layer < below)
    if SLIDING not in types:
        fields.raw("sliding_window")  # which transformers writes as 0 then
        return {}
    return kinds(fields, windows(fields, types), [rope] * len(types))


def qwen2_moe(fields: Fields) -> Settings:
    plain = _plain(fields, theta=1e4)
    moe = _moe(
        fields,
        "moe_intermediate_size",
        normalised=fields.truth("norm_topk_prob"),
        shared_mlp_dim=fields.count("shared_expert_intermediate_size"),
    )
    return {
        **plain,
        **_qwen2_windows(fields, plain["rope"]),
        **_in_some_layers(fields, moe),
        "qkv_bias": fields.truth("qkv_bias"),
    }


def qwen3_moe(fields: Fields) -> Settings:
    """A window is for all layers, whatever max_window_layers says."""
    plain, slides = _plain(fields, theta=1e4), fields.flag("use_sliding_window")
    fields.raw("sliding_window")
    normalised = fields.truth("norm_topk_prob")
    return {
        **plain,
        **(same_window(fields, plain["rope"]) if slides else {}),
        **attention_bias(fields),
        "qk_norm": QkNorm.HEAD,
        **_in_some_layers(fields, _moe(fields, "moe_intermediate_size", normalised=normalised)),
    }


def olmoe(fields: Fields) -> Settings:
    fields.only("head_dim", fields.count("hidden_size") // fields.count("num_attention_heads"))
    fields.only("clip_qkv")
    return {
        **_plain(fields, theta=1e4),
        **attention_bias(fields),
        "qk_norm": QkNorm.WIDTH,
        "moe": _moe(fields, "intermediate_size", normalised=fields.truth("norm_topk_prob")),
    }


def gpt_oss(fields: Fields) -> Settings:
    rope = read_rope(fields, head_dim(fields), theta=150000.0, absent=_GPT_OSS_ROPE)
    types = layer_types(fields, lambda layer: layer % 2 == 0)
    fields.only("experts_per_token", fields.count("num_experts_per_tok"))  # its other name
    swiglu = ClampedSwiGLU(
        alpha=fields.positive("swiglu_alpha"), limit=fields.positive("swiglu_limit")
    )
    return {
        "norm_eps": fields.positive("rms_norm_eps"),
        "norm": NormSettings(scale_in_float32=True),
        "rope": rope,
        **kinds(fields, windows(fields, types), [rope] * len(types)),
        **attention_bias(fields),
        "attention_sinks": True,
        "moe": _moe(
            fields,
            "intermediate_size",
            normalised=True,
            clamped_swiglu=swiglu,
            expert_biases=True,
            router_bias=True,
        ),
    }
