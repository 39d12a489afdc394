"""Parts of config.json that families with a mixture of experts share, read into settings."""

from typing import Any

from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import Settings, head_dim
from jaxsft.model.moe_settings import MoeSettings

_SILU = {"silu": None, "swish": None}  # what the experts compute; they have no other activation


def _num_experts(fields: Fields) -> int:
    """The number of experts, by either of the names that versions of transformers write."""
    names = ("num_local_experts", "num_experts")
    found = [name for name in names if fields.raw(name) is not None]
    for name in found[1:]:
        fields.only(name, fields.raw(found[0]))
    return fields.count(found[0] if found else names[0])


def moe(fields: Fields, mlp_dim: str, *, normalised: bool, **others: Any) -> MoeSettings:
    """The experts, their router and their activation.

    Args:
        mlp_dim: the field that has the width of one expert.
        others: further settings, of the family.
    """
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
        balance_coefficient=fields.not_negative("router_aux_loss_coef"),
        balances=fields.flag("output_router_logits"),
        **others,
    )


def in_some_layers(fields: Fields, experts: MoeSettings) -> Settings:
    """Experts in every decoder_sparse_step-th layer that mlp_only_layers doesn't name."""
    num_layers, step = fields.count("num_hidden_layers"), fields.maybe_count("decoder_sparse_step")
    named = fields.raw("mlp_only_layers") or []
    known = range(num_layers)
    if not isinstance(named, list) or any(type(i) is not int or i not in known for i in named):
        wanted = f"is not supported; layers from 0 to {num_layers - 1} are"
        raise fields.refuse("mlp_only_layers", wanted)
    dense = tuple(i for i in known if i in named or (i + 1) % (step or 1))
    return {"moe": experts, "dense_layers": dense} if len(dense) < num_layers else {}


def norm_and_rope(fields: Fields, theta: float) -> Settings:
    """Norm epsilon and one rope for all layers."""
    rope = read_rope(fields, head_dim(fields), theta=theta)
    return {"norm_eps": fields.positive("rms_norm_eps"), "rope": rope}
