"""`jaxsft.load_model` and `jaxsft.save_model`."""

import warnings
from pathlib import Path
from typing import Literal

from flax import nnx
from jax.sharding import Mesh

from jaxsft import mesh as mesh_lib
from jaxsft.convert import pretrained
from jaxsft.convert.export import Exported, export
from jaxsft.errors import ConversionError
from jaxsft.model import state
from jaxsft.model.transformer import Decoder


def load_model(
    source: str | Path,
    mesh: Mesh | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    parameter_dtype: Literal["float32", "bfloat16"] = "float32",
) -> Decoder:
    """The pretrained decoder; `model(tokens)` gives float32 logits.

    Args:
        source: Hugging Face directory, hub id, .gguf file or run directory.
        mesh: None: one local device.
        dtype: of the computation.
        parameter_dtype: of the parameters; bfloat16 takes half the memory.

    Raises:
        ConversionError: a model that can't be read exactly.
    """
    base = pretrained.open_pretrained(source)
    for note in [*base.notes, *pretrained.rounding_notes(base, parameter_dtype)]:
        warnings.warn(note, stacklevel=2)
    graphdef, shapes, axes = state.abstract(base.settings, dtype, "none", parameter_dtype)
    placement = state.shardings(shapes, axes, mesh or mesh_lib.single_device_mesh())
    params = pretrained.read_params(base, placement, parameter_dtype)
    model: Decoder = nnx.merge(graphdef, params)
    model.source = str(source)
    return model


def save_model(
    model: Decoder,
    directory: str | Path,
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source",
) -> Exported:
    """Writes a Hugging Face directory: the model, and all that its source has beside the weights.

    Raises:
        ConversionError: a model that load_model did not make, or one that can't be written exactly.
    """
    if model.source is None:
        raise ConversionError(
            f"save_model: this {type(model).__name__} was not made by jaxsft.load_model, so there"
            " is no config.json and tokenizer to go with it"
        )
    base = pretrained.open_pretrained(model.source)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return export(params, base, directory, dtype=dtype)
