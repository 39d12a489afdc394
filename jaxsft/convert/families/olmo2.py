"""OLMo 2: norms after attention and MLP and none before, norms of all heads' queries together."""

from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import Settings, attention_bias, plain_parts
from jaxsft.convert.families.shared_rows import (
    FIRST,
    LAST,
    MLP,
    norm_rows,
    wide_attention_rows,
)
from jaxsft.convert.families.tensor_table import Table
from jaxsft.model.settings import NormSettings, QkNorm


def read(fields: Fields) -> Settings:
    return {**plain_parts(fields), **olmo(fields)}


def olmo(fields: Fields) -> Settings:
    """What OLMo 2 and 3 have in common."""
    return {
        "norm": NormSettings(scale_in_float32=True),
        "norms_before": False,
        "norms_after": True,
        "qk_norm": QkNorm.WIDTH,
        **attention_bias(fields),
    }


TABLE: Table = (
    *FIRST,
    *wide_attention_rows(),
    *MLP,
    *norm_rows("post_attention_layernorm", "attention_out_norm"),
    *norm_rows("post_feedforward_layernorm", "mlp_out_norm"),
    *LAST,
)
FAMILY = Family(
    model_type="olmo2",
    hf_class="Olmo2ForCausalLM",
    read=read,
    table=TABLE,
    defaults=defaults(2048, rms_norm_eps=1e-5),
)
