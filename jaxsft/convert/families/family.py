"""A family of models: all that reading, writing and exporting one asks of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxsft.convert.families.fields import Fields
from jaxsft.convert.families.gguf_names import Architecture
from jaxsft.convert.families.shared_fields import Settings
from jaxsft.convert.families.tensor_table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    model_type: str  # in config.json
    hf_class: str  # of transformers, as config.json's architectures names it
    read: Callable[[Fields], Settings]  # the settings that are not common to all families
    table: Table  # its tensors
    defaults: Mapping[str, Any]  # of transformers, for a field that is not there
    harmless: frozenset[str] = frozenset()  # fields that change nothing in this family
    gguf: Architecture | None = None  # None: llama.cpp's files of it are neither read nor written
    # Values of transformers for sizes that the text_config of a multimodal model leaves out.
    text_sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # What a file calls otherwise than transformers calls its modules: (in the file, the module).
    module_names: tuple[tuple[str, str], ...] = ()
    mxfp4: bool = False  # weights that are published in mxfp4 can be read


def sizes(vocab: int, embed_dim: int, mlp_dim: int, layers: int, heads: int) -> dict[str, int]:
    return {
        **{"vocab_size": vocab, "hidden_size": embed_dim, "intermediate_size": mlp_dim},
        **{"num_hidden_layers": layers, "num_attention_heads": heads},
    }


def defaults(max_positions: int, **others: Any) -> dict[str, Any]:
    """The values that transformers takes for fields that are not there.

    Args:
        others: the family's own fields, and those of all families that it has otherwise; one that
            is ... has no default in this family.
    """
    common = {
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": max_positions,
    }
    return {name: value for name, value in (common | others).items() if value is not ...}
