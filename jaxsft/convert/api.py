"""`jaxsft.load_model` and `jaxsft.save_model`."""

import warnings
from pathlib import Path
from typing import Literal, get_args, overload

from flax import nnx
from jax.sharding import Mesh

from jaxsft.convert import pretrained, source
from jaxsft.convert.export import gguf_file
from jaxsft.convert.export.directory import ExportDtype, Exported, export, main_dtype
from jaxsft.convert.export.gguf_file import GgufFile
from jaxsft.devices import mesh as mesh_lib
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
    params = pretrained.read_params(base, placement, shapes)
    model = state.model_of(graphdef, params)
    model.source = str(source)
    return model


@overload
def save_model(
    model: Decoder,
    path: str | Path,
    format: Literal["safetensors"] = "safetensors",
    dtype: ExportDtype = "source",
) -> Exported: ...
@overload
def save_model(
    model: Decoder,
    path: str | Path,
    format: Literal["gguf"],
    dtype: ExportDtype | Literal["q8_0"] = "source",
) -> GgufFile: ...
def save_model(
    model: Decoder,
    path: str | Path,
    format: Literal["safetensors", "gguf"] = "safetensors",
    dtype: ExportDtype | Literal["q8_0"] = "source",
) -> Exported | GgufFile:
    """Writes the model, and all that its source has beside the weights.

    Args:
        path: of what is written: a Hugging Face directory, or a .gguf file for llama.cpp.
        format: says which of the two; the name of `path` does not.
        dtype: "source": that of most of the weights that were read (quantised ones: float32), or of
            each weight in a directory; q8_0 in GGUF only.

    Raises:
        ConversionError: a format or dtype that is not there, a model that load_model did not make,
            or one that can't be written exactly.
    """
    formats = {"safetensors": get_args(ExportDtype), "gguf": ("source", *gguf_file.DTYPES)}
    if format not in formats:
        raise ConversionError(f"save_model: format={format!r}; there are {', '.join(formats)}")
    if dtype not in formats[format]:
        raise ConversionError(
            f"save_model: dtype={dtype!r}; format={format!r} has {', '.join(formats[format])}"
        )
    if model.source is None:
        raise ConversionError(
            f"save_model: this {type(model).__name__} was not made by jaxsft.load_model, so there"
            " is no config.json and tokenizer to go with it"
        )
    base = pretrained.open_pretrained(model.source)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    tokenizer = source.own_tokenizer(model.source)
    if format == "gguf":
        kind = gguf_file.DTYPES[main_dtype(params, base) if dtype == "source" else dtype]
        return gguf_file.export_gguf(params, base, path, dtype=kind, tokenizer=tokenizer)
    assert dtype != "q8_0"
    return export(params, base, path, dtype=dtype, tokenizer=tokenizer)
