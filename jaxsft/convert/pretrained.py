"""A pretrained model on disk, opened: its configuration, its settings and its tensors."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxsft.convert import adapter, families, hf_config, huggingface, source, untrusted
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


def open_pretrained(name: str | Path, *, weights: bool = True) -> Pretrained:
    """The model that config.model.source names, its headers read and checked.

    Args:
        weights: False reads config.json only, for random weights.

    Raises:
        ConversionError: not there, not understood, or its parts contradict each other.
    """
    path = source.resolve(name)
    template_notes: list[str] = []
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
        template_notes = _template_notes(path)
        tensors = Directory(path) if weights else None
    table = hf_config.family_of(config, where).table
    decoder, notes = hf_config.settings_from_config(config, where)
    notes += template_notes
    if tensors is not None:
        if (adapter_directory := source.adapter_directory(name)) is not None:
            tensors = adapter.Merged(tensors, adapter_directory)
            notes += tensors.notes
        _, shapes, _ = state.abstract(decoder, "float32", "none")
        notes += huggingface.check_names(tensors, table, shapes, decoder, str(path))
    return Pretrained(str(name), path, config, generation, decoder, table, tensors, tuple(notes))


def read_params(base: Pretrained, placement: Params) -> Params:
    """The model's float32 parameters, placed by `state.shardings`.

    Raises:
        ConversionError: a NaN or infinite value, by its tensor's name.
    """
    if base.tensors is None:
        raise ConversionError(f"{base.path}: was opened without weights")
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    return huggingface.read_params(base.tensors, base.table, shapes, placement, str(base.path))


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
