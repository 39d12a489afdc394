"""A pretrained model on disk, opened: its configuration, its settings and its tensors."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxsft.convert import source
from jaxsft.convert.adapter import merge
from jaxsft.convert.families import config_json, multimodal, quantised, tensor_table
from jaxsft.convert.tensors import buffers, huggingface, multimodal_parts, mxfp4
from jaxsft.convert.tensors.safetensors_read import ANY_DTYPES, DTYPES, Directory
from jaxsft.convert.vocabulary import chat_template
from jaxsft.errors import ConversionError
from jaxsft.files import untrusted
from jaxsft.model import settings, state
from jaxsft.model.state import Params


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model as `open_pretrained` found it; no weight has been read yet."""

    source: str  # as the user wrote it
    path: Path  # Hugging Face directory or .gguf file
    config: dict[str, Any]  # config.json; made from the metadata for a .gguf file
    generation_config: dict[str, Any]  # {} when there is none
    settings: settings.DecoderSettings
    table: tensor_table.Table  # its family's for its layers: names and layouts of the tensors
    tensors: huggingface.Tensors | None  # None: opened without weights
    notes: tuple[str, ...]  # what was found and has no effect: show them
    others: huggingface.Tensors | None = None  # of a multimodal model: they pass through
    naming: multimodal.Naming | None = None  # of a multimodal model's file
    new_ids: frozenset[int] = frozenset()  # tokens that were added: the files have no rows of them


def open_pretrained(name: str | Path, *, weights: bool = True) -> Pretrained:
    """The model that config.model.source names, its headers read and checked.

    Args:
        weights: False reads config.json only, for random weights.

    Raises:
        ConversionError: not there, not understood, or its parts contradict each other.
    """
    path = source.resolve(name)
    if source.is_gguf(path):
        opened = _open_gguf(path, weights)
    else:
        opened = _open_directory(path, weights)
    plain = config_json.family_of(opened.config, opened.where).table
    table = multimodal.table(opened.config, plain)
    opened = _text_part(opened, table, str(path))
    decoder, told = config_json.settings_from_config(opened.config, opened.where)
    table = tensor_table.of_model(table, decoder)
    config, tensors = opened.config, opened.tensors
    notes = [*told, *opened.notes, *source.adapter_notes(name, path)]
    if tensors is not None:
        if (adapter_directory := source.adapter_directory(name)) is not None:
            _, shapes, _ = state.abstract(decoder, "float32", "none")
            in_memory = config_json.module_names(config, opened.where)
            tied = decoder.tied_embeddings
            tensors = merge.Merged(tensors, adapter_directory, table, shapes, in_memory, tied)
            notes += tensors.notes
            if tensors.untied:
                decoder = dataclasses.replace(decoder, tied_embeddings=False)
                config = multimodal.untied(config)
        notes += _check_tensors(tensors, table, decoder, str(path))
    return Pretrained(
        source=str(name),
        path=path,
        config=config,
        generation_config=opened.generation_config,
        settings=decoder,
        table=table,
        tensors=tensors,
        notes=tuple(notes),
        others=opened.others,
        naming=opened.naming,
    )


@dataclasses.dataclass(frozen=True)
class _Opened:
    """The content of the files, before it is understood."""

    where: str  # what to call the configuration in errors
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tensors: huggingface.Tensors | None
    notes: tuple[str, ...]
    others: huggingface.Tensors | None = None
    naming: multimodal.Naming | None = None


def _open_gguf(path: Path, weights: bool) -> _Opened:
    from jaxsft.convert.gguf.model_file import File

    file = File(path)
    generation = file.generation_config()
    return _Opened(str(path), file.hf_config(), generation, file if weights else None, ())


def _open_directory(path: Path, weights: bool) -> _Opened:
    """The family and how weights are stored come first: they decide what the files can hold."""
    where = str(path / "config.json")
    config = untrusted.read_json(path / "config.json")
    config_json.refuse_unsupported(config, where)
    generation, notes = _generation_config(path), _template_notes(path)
    if packed := quantised.is_mxfp4(config):
        del config["quantization_config"]
        notes.append(
            f"{where}: the mxfp4 weights are dequantised; an export has them in bfloat16, and"
            " no quantization_config"
        )
    tensors = None
    if weights:
        quantised.refuse_files(path)
        dtypes = DTYPES if multimodal.wrapper(config) is None else ANY_DTYPES
        tensors = mxfp4.Dequantised(path) if packed else Directory(path, dtypes=dtypes)
    return _Opened(where, config, generation, tensors, tuple(notes))


def _text_part(opened: _Opened, table: tensor_table.Table, path: str) -> _Opened:
    """The text part of a multimodal model, apart from its others; any other model as it is."""
    config, tensors = opened.config, opened.tensors
    kind = multimodal.wrapper(config)
    if kind is None:
        return opened
    if tensors is None:
        line = f"{path}: without weights an export holds the text part only"
        naming = multimodal.naming(kind, ())
        return dataclasses.replace(opened, naming=naming, notes=(*opened.notes, line))
    naming = multimodal.naming(kind, tensors.names())
    text, others = multimodal_parts.text_and_rest(tensors, kind, naming, path)
    notes = multimodal_parts.notes(others, path)
    if multimodal_parts.has_own_head(config, text, table):
        config = multimodal.untied(config)
        notes.append(
            f"{opened.where}: tie_word_embeddings is true, but the files hold a head of their own:"
            " it is not tied, as in transformers, and exports say so"
        )
    told = (*opened.notes, *notes)
    return dataclasses.replace(
        opened, config=config, tensors=text, others=others, naming=naming, notes=told
    )


def _check_tensors(
    tensors: huggingface.Tensors,
    table: tensor_table.Table,
    decoder: settings.DecoderSettings,
    where: str,
) -> list[str]:
    constants, told = buffers.checked_constants(tensors, decoder, where)
    _, shapes, _ = state.abstract(decoder, "float32", "none")
    return huggingface.check_names(tensors, constants, table, shapes, decoder, where) + told


def read_params(base: Pretrained, placement: Params, shapes: Params | None = None) -> Params:
    """The model's parameters, placed by `state.shardings`.

    Args:
        shapes: with the dtype of each; None: all float32.

    Raises:
        ConversionError: a NaN or infinite value, by its tensor's name.
    """
    if base.tensors is None:
        raise ConversionError(f"{base.path}: was opened without weights")
    if shapes is None:
        _, shapes, _ = state.abstract(base.settings, "float32", "none")
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


def _generation_config(path: Path) -> dict[str, Any]:
    file = path / "generation_config.json"
    return untrusted.read_json(file) if file.exists() else {}


def _template_notes(path: Path) -> list[str]:
    """A line where chat_template.jinja and tokenizer_config.json hold different templates."""
    file, config_path = path / chat_template.FILE, path / "tokenizer_config.json"
    if not file.is_file() or not config_path.is_file():
        return []
    embedded = chat_template.embedded(untrusted.read_json(config_path))
    if embedded is None or embedded.encode() == file.read_bytes():
        return []
    return [
        f"{path}: chat_template.jinja differs from the template in tokenizer_config.json;"
        " transformers takes the file"
    ]


def stored_dtypes(base: Pretrained) -> dict[str, str]:
    """The dtype of each parameter in the model's files, by its dotted path.

    Of layers that differ the widest. Without weights: what config.json says, else float32.
    """
    _, shapes, _ = state.abstract(base.settings, "float32", "none")
    if base.tensors is None:
        said = str(base.config.get("dtype") or base.config.get("torch_dtype"))
        dtype = said if said in huggingface.DTYPES else "float32"
        return {".".join(path): dtype for path in tensor_table.paths(shapes)}
    found: dict[str, set[str]] = {}
    for tensor in tensor_table.tensors(shapes, base.table):
        dtype = str(base.tensors.dtype(tensor.name))
        for weight in tensor.weights:
            found.setdefault(".".join(weight.row.ours), set()).add(dtype)
    return {path: dtypes.pop() if len(dtypes) == 1 else "float32" for path, dtypes in found.items()}
