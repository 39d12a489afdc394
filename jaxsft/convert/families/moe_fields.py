"""Parts of config.json that several families with a mixture of experts share, read into settings.

Their router_aux_loss_coef belongs to a loss that training here does not have. A model
in which only some layers have experts is refused, by mlp_only_layers and decoder_sparse_step.
"""

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
        **others,
    )


def refuse_dense_layers(fields: Fields) -> None:
    fields.only("mlp_only_layers", [])
    fields.only("decoder_sparse_step", 1)


def norm_and_rope(fields: Fields, theta: float) -> Settings:
    """Norm epsilon and one rope for all layers."""
    rope = read_rope(fields, head_dim(fields), theta=theta)
    return {"norm_eps": fields.positive("rms_norm_eps"), "rope": rope}
