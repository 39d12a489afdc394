"""Llama."""

from jaxsft.convert.families import gguf_names
from jaxsft.convert.families.family import Family, defaults, sizes
from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.shared_fields import Settings, attention_bias, plain_parts
from jaxsft.convert.families.shared_rows import FIRST, LAST, MLP, TWO_NORMS, attention_rows
from jaxsft.convert.families.tensor_table import Table


def read(fields: Fields) -> Settings:
    return {**plain_parts(fields), **attention_bias(fields), "mlp_bias": fields.flag("mlp_bias")}


# In the order of transformers, which decides what comes into which shard.
TABLE: Table = (*FIRST, *attention_rows(), *MLP, *TWO_NORMS, *LAST)
GGUF = gguf_names.Architecture(
    name="llama",
    tensors=gguf_names.DENSE
    | gguf_names.HEAD
    | gguf_names.QKV_BIASES
    | gguf_names.biases(("attn_output", "o_proj")),
    fixed={**gguf_names.SILU, "mlp_bias": (False, None)},
    presence={"attention_bias": "blk.0.attn_q.bias"},
    permuted=True,
)
FAMILY = Family(
    model_type="llama",
    hf_class="LlamaForCausalLM",
    read=read,
    table=TABLE,
    defaults=defaults(2048, mlp_bias=False),
    gguf=GGUF,
    text_sizes=sizes(32000, 4096, 11008, 32, 32),
)
