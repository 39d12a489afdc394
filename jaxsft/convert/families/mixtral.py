"""Mixtral: a Mistral with experts."""

import dataclasses

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.moe_fields import moe, norm_and_rope
from jaxsft.convert.families.moe_rows import QWEN_MOE
from jaxsft.convert.families.shared_fields import Settings, same_window
from jaxsft.convert.families.tensor_table import TensorRow


def read(fields: Fields) -> Settings:
    plain = norm_and_rope(fields, theta=1e6)
    return {
        **plain,
        **same_window(fields, plain["rope"]),
        "moe": moe(fields, "intermediate_size", normalised=True),
    }


def _as_mixtral(row: TensorRow) -> TensorRow:
    theirs = row.theirs.replace(".mlp.", ".block_sparse_moe.")
    for usual, letter in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
        theirs = theirs.replace(usual, letter)
    return dataclasses.replace(row, theirs=theirs)


FAMILY = Family(
    model_type="mixtral",
    hf_class="MixtralForCausalLM",
    read=read,
    table=tuple(_as_mixtral(row) for row in QWEN_MOE),  # sorted by the usual names
    module_names=(("block_sparse_moe", "mlp"),),
    defaults=defaults(
        131072,
        num_key_value_heads=8,
        num_experts_per_tok=2,
        router_aux_loss_coef=0.001,
        rms_norm_eps=1e-5,
        attention_bias=...,
    ),
)
