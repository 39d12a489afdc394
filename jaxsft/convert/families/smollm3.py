"""SmolLM 3: a Llama of which every fourth layer has no rope."""

from jaxsft.convert.families import llama
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import (
    Settings,
    attention_bias,
    kinds,
    plain_parts,
    window_types,
    windows,
)


def read(fields: Fields) -> Settings:
    plain = plain_parts(fields, theta=2e6)
    num_layers = fields.count("num_hidden_layers")
    every = fields.count("no_rope_layer_interval")
    turned = fields.raw("no_rope_layers")  # 1: has a rope, in spite of the name
    if turned is None:
        turned = [int((layer + 1) % every != 0) for layer in range(num_layers)]
    known = isinstance(turned, list) and all(has_rope in (0, 1) for has_rope in turned)
    if not known or len(turned) != num_layers:
        raise fields.refuse("no_rope_layers", f"is not supported; {num_layers} of 0 and 1 are")
    types = window_types(fields, lambda layer: not turned[layer])
    ropes = [plain["rope"] if has_rope else None for has_rope in turned]
    return {
        **plain,
        **attention_bias(fields),
        "mlp_bias": fields.flag("mlp_bias"),
        **kinds(fields, windows(fields, types), ropes),
    }


FAMILY = Family(
    model_type="smollm3",
    hf_class="SmolLM3ForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=defaults(
        32768,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        mlp_bias=False,
        use_sliding_window=False,
        no_rope_layer_interval=4,
    ),
    harmless=frozenset({"max_window_layers"}),
)
