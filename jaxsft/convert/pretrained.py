"""A pretrained model on disk, opened: its configuration, its settings and its tensors."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxsft.convert import (
    adapter,
    buffers,
    families,
    hf_config,
    huggingface,
    mxfp4,
    source,
    untrusted,
)
from jaxsft.convert.safetensors_read import Directory
from jaxsft.errors import ConversionError
from jaxsft.model import settings, state
from jaxsft.model.state import Params


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What `open_pretrained` found; no weight has been read yet."""

    source: str  # as the user wrote it
    path: Path  # Hugging Face directory or .gguf file
    config: dict[str, Any]  # config.json; made from the metadata for a .gguf file
    generation_config: dict[str, Any]  # {} when there is none
    settings: settings.Decoder
    table: families.Table  # of its family: names and layouts of the tensors
    tensors: huggingface.Tensors | None  # None: opened without weights
    notes: tuple[str, ...]  # what was found and has no effect: show them
    new_ids: frozenset[int] = frozenset()  # tokens that were added: the files have no rows of them


def open_pretrained(name: str | Path, *, weights: bool = True) -> Pretrained:
    """The model that config.model.source names, its headers read and checked.

    Args:
        weights: False reads config.json only, for random weights.

    Raises:
        ConversionError: not there, not understood, or its parts contradict each other.
    """
    path = source.resolve(name)
    found: list[str] = []
    tensors: huggingface.Tensors | None = None
    if source.is_gguf(path):
        from jaxsft.convert.gguf import File

        file = File(path)
        config, generation, where = file.hf_config(), file.generation_config(), str(path)
        tensors = file if weights else None
    else:
        where = str(path / "config.json")
        config = untrusted.read_json(path / "config.json")
        generation = _generation_config(path)
        found = _template_notes(path)
        if packed := mxfp4.is_used(config):
            del config["quantization_config"]
            found.append(
                f"{where}: the mxfp4 weights are dequantised; an export has them in bfloat16, and"
                " no quantization_config"
            )
        if weights:
            tensors = mxfp4.Dequantised(path) if packed else Directory(path)
    table = hf_config.family_of(config, where).table
    decoder, notes = hf_config.settings_from_config(config, where)
    notes += found + source.adapter_notes(name, path)
    if tensors is not None:
        if (adapter_directory := source.adapter_directory(name)) is not None:
            tensors = adapter.Merged(tensors, adapter_directory, table, decoder.tied_embeddings)
            notes += tensors.notes
            if tensors.untied:
                decoder = dataclasses.replace(decoder, tied_embeddings=False)
                config = _untied(config)
        constants, told = buffers.check(tensors, decoder, str(path))
        _, shapes, _ = state.abstract(decoder, "float32", "none")
        notes += huggingface.check_names(tensors, constants, table, shapes, decoder, str(path))
        notes += told
    return Pretrained(str(name), path, config, generation, decoder, table, tensors, tuple(notes))


def read_params(base: Pretrained, placement: Params, parameter_dtype: str = "float32") -> Params:
    """The model's parameters, placed by `state.shardings`.

    Raises:
        ConversionError: a NaN or infinite value, by its tensor's name.
    """
    if base.tensors is None:
        raise ConversionError(f"{base.path}: was opened without weights")
    _, shapes, _ = state.abstract(base.settings, "float32", "none", parameter_dtype)
    return huggingface.read_params(base.tensors, base.table, shapes, placement, str(base.path))


def rounding_notes(base: Pretrained, parameter_dtype: str) -> list[str]:
    """A line where parameters hold less than the file does: show it."""
    if base.tensors is None or parameter_dtype == "float32":
        return []
    dtypes = [str(base.tensors.dtype(name)) for name in base.tensors.names()]
    wider = [dtype for dtype in dtypes if dtype != parameter_dtype]
    if not wider:
        return []
    return [
        f"{base.path}: {len(wider)} of {len(dtypes)} tensors are rounded from"
        f" {' and '.join(sorted(set(wider)))} to {parameter_dtype} parameters"
    ]


def _untied(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json without tying, also in the part that describes a text model."""
    text, field = config.get("text_config"), "tie_word_embeddings"
    if isinstance(text, dict) and field in text:
        config = config | {"text_config": text | {field: False}}
    return config | {field: False}


def _generation_config(path: Path) -> dict[str, Any]:
    file = path / "generation_config.json"
    return untrusted.read_json(file) if file.exists() else {}


def _template_notes(path: Path) -> list[str]:
    """A line where chat_template.jinja and tokenizer_config.json hold different templates."""
    file, config_path = path / "chat_template.jinja", path / "tokenizer_config.json"
    if not file.is_file() or not config_path.is_file():
        return []
    embedded = untrusted.read_json(config_path).get("chat_template")
    if isinstance(embedded, list):
        embedded = {entry.get("name"): entry.get("template") for entry in embedded}.get("default")
    if not isinstance(embedded, str) or embedded.encode() == file.read_bytes():
        return []
    return [
        f"{path}: chat_template.jinja differs from the template in tokenizer_config.json;"
        " transformers takes the file"
    ]
