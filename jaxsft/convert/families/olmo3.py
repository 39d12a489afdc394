"""OLMo 3: OLMo 2 with windows in three layers of four, and a rope for each type of layer."""

from jaxsft.convert.families import olmo2
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_ropes
from jaxsft.convert.families.shared_fields import (
    ACTIVATIONS,
    FULL,
    Settings,
    head_dim,
    kinds,
    layer_types,
    windows,
)


def read(fields: Fields) -> Settings:
    size = head_dim(fields)
    fields.only("rope_theta", 5e5)  # versions of transformers disagree on which layers it is for
    ropes = read_ropes(fields, size, full_theta=5e5, sliding_theta=5e5)
    types = layer_types(fields, lambda layer: (layer + 1) % 4 != 0)
    return {
        **olmo2.olmo(fields),
        "norm_eps": fields.positive("rms_norm_eps"),
        "activation": fields.choice("hidden_act", ACTIVATIONS),
        "rope": ropes[FULL],
        **kinds(fields, windows(fields, types), [ropes[kind] for kind in types]),
    }


FAMILY = Family(
    model_type="olmo3",
    hf_class="Olmo3ForCausalLM",
    read=read,
    table=olmo2.TABLE,
    defaults=defaults(2048, rms_norm_eps=1e-5, sliding_window=4096),
)
