"""Command R7B: Command R with windows in three layers of four, the others without a rope."""

from jaxsft.convert.families import cohere, llama
from jaxsft.convert.families.family import Family, defaults
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.rope import read_rope
from jaxsft.convert.families.shared_fields import (
    SLIDING,
    Settings,
    head_dim,
    kinds,
    layer_types,
    windows,
)


def read(fields: Fields) -> Settings:
    fields.only("head_dim", fields.count("hidden_size") // fields.count("num_attention_heads"))
    rope = read_rope(fields, head_dim(fields), theta=1e4, interleaved=True)
    every = fields.maybe_count("sliding_window_pattern") or 4
    types = layer_types(fields, lambda layer: (layer + 1) % every != 0)
    fields.only("use_parallel_block", True)
    fields.only("use_gated_activation", True)
    fields.only("position_embedding_type", "rope_gptj")
    fields.only("order_of_interleaved_layers", "local_attn_first")
    ropes = [rope if kind == SLIDING else None for kind in types]
    return {
        **cohere.cohere_common(fields),
        "rope": rope,
        **kinds(fields, windows(fields, types), ropes),
    }


FAMILY = Family(
    model_type="cohere2",
    hf_class="Cohere2ForCausalLM",
    read=read,
    table=llama.TABLE,
    defaults=defaults(8192, **cohere.COMMON_DEFAULTS, sliding_window=4096),
    harmless=frozenset({"layer_switch", "use_embedding_sharing", "use_parallel_embedding"}),
)
