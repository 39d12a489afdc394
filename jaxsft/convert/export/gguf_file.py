"""A model as one .gguf file for llama.cpp, written tensor by tensor and read back."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxsft.convert import source
from jaxsft.convert.export.directory import base_name, end_ids, license_of
from jaxsft.convert.families import config_json, multimodal, tensor_table
from jaxsft.convert.gguf import hyperparameters, model_file, vocabulary
from jaxsft.convert.new_tokens import settle_padding
from jaxsft.convert.pretrained import Pretrained
from jaxsft.convert.tensors import huggingface
from jaxsft.errors import ConversionError
from jaxsft.model.state import Params
from jaxsft.terminal.redact import redacted

Dtype = Literal["f32", "f16", "bf16", "q8_0"]
# The names that other formats have for them.
DTYPES: dict[str, Dtype] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "q8_0": "q8_0"}
_KINDS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # general.file_type
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """The file that was written."""

    path: Path
    notes: tuple[str, ...]  # what the file can't hold as asked: show them


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A tensor of the file."""

    name: str
    theirs: str  # its Hugging Face name
    shape: tuple[int, ...]
    kind: Any  # gguf.GGMLQuantizationType


def export_gguf(
    params: Params,
    base: Pretrained,
    path: Path | str,
    *,
    dtype: Dtype = "f16",
    template: str | None = None,
    end_of_turn_ids: Sequence[int] = (),
    tokenizer: Path | None = None,
) -> GgufFile:
    """Writes a trained model; every process takes part, the first one writes.

    Args:
        dtype: of the matrices; vectors are float32, as llama.cpp wants them.
        template: the chat template trained with; None: the base's own.
        end_of_turn_ids: tokens that end a turn.
        tokenizer: a tokenizer directory; None: the base's own.

    Raises:
        ConversionError: a model, tokenizer or value that the format can't hold.
    """
    path = Path(path)
    ends = end_ids(base, end_of_turn_ids)
    plain = config_json.family_of(base.config, str(base.path)).table
    table = tensor_table.of_model(plain, base.settings)
    tensors = TrainedTensors(settle_padding(params, base.settings), table)
    if jax.process_index():
        for name in tensors.names():  # the collectives of the first process
            tensors.read(name)
        return GgufFile(path, ())
    directory = tokenizer or source.tokenizer_directory(base.path)
    about = {"general.name": redacted(base_name(base))}
    about |= {f"general.{key}": value for key, value in license_of(base).items()}
    config = multimodal.text_config(base.config, str(base.path))
    return write(tensors, config, path, directory, dtype, template, ends, about)


class TrainedTensors:
    """The parameters as float32 tensors under Hugging Face names."""

    def __init__(self, params: Params, table: tensor_table.Table):
        self._params = params
        self._tensors = {tensor.name: tensor for tensor in tensor_table.tensors(params, table)}

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].their_shape

    def dtype(self, name: str) -> np.dtype:
        return huggingface.DTYPES["float32"]

    def read(self, name: str) -> np.ndarray:
        return huggingface.to_theirs(self._params, self._tensors[name], self.dtype(name))[0]


def write(
    tensors: huggingface.Tensors,
    config: Mapping[str, Any],
    path: Path,
    tokenizer: Path,
    dtype: Dtype,
    template: str | None = None,
    ends: Sequence[int] = (),
    about: Mapping[str, str] | None = None,
) -> GgufFile:
    """Writes any model that is described as a Hugging Face directory describes it.

    Args:
        config: of config.json.
        ends: ids of the tokens at which generation stops.
        about: more metadata: general.name and so on.

    Raises:
        ConversionError: what the format can't hold; a file that reads back differently.
    """
    library = model_file.gguf_package(path)
    if path.suffix != ".gguf":
        raise ConversionError(f"{path}: name a file that ends in .gguf")
    hyper = hyperparameters.from_config(config, str(path))
    vocab_size = hyper.metadata[f"{hyper.architecture.name}.vocab_size"]
    vocab, notes = vocabulary.metadata(tokenizer, vocab_size, ends, template)
    planned = _plan(library, tensors, hyper, dtype, path)
    notes += hyper.notes + _fallbacks(planned, dtype, path)
    meta = {"general.type": "model", **(about or {}), **hyper.metadata, **vocab}
    meta |= {"general.file_type": _FILE_TYPES[dtype], "general.quantization_version": 2}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.gguf")
    try:
        digests = _write_file(library, partial, hyper, meta, planned, tensors)
        _verify(partial, digests, meta)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return GgufFile(path, notes)


def _plan(
    library: Any, tensors: huggingface.Tensors, hyper: hyperparameters.Hyper, dtype: str, path: Path
) -> list[_Planned]:
    names = {theirs: ours for ours, theirs in hyper.architecture.tensors.items()}
    kinds = library.GGMLQuantizationType
    planned = []
    for theirs in tensors.names():
        ours, shape = model_file.their_name(theirs, names), tensors.shape(theirs)
        if ours == theirs:
            always = "; there the head is always the embedding" * (theirs == tensor_table.HEAD)
            raise ConversionError(
                f"{path}: {theirs} has no place in llama.cpp's architecture"
                f" {hyper.architecture.name!r}{always}"
            )
        kind = kinds[_KINDS[dtype]] if len(shape) > 1 else kinds.F32
        if shape and shape[-1] % library.GGML_QUANT_SIZES[kind][0]:
            kind = kinds.F16
        planned.append(_Planned(ours, theirs, shape, kind))
    return planned


def _fallbacks(planned: list[_Planned], dtype: str, path: Path) -> tuple[str, ...]:
    odd = [p for p in planned if len(p.shape) > 1 and p.kind.name != _KINDS[dtype]]
    if not odd:
        return ()
    return (
        f"{path}: {len(odd)} tensors are f16, as their rows are no multiple of 32"
        f" ({odd[0].name}: {odd[0].shape[-1]})",
    )


def _write_file(
    library: Any,
    path: Path,
    hyper: hyperparameters.Hyper,
    meta: Mapping[str, Any],
    planned: list[_Planned],
    tensors: huggingface.Tensors,
) -> dict[str, str]:
    """Writes the file and returns the sha256 of each tensor's bytes, by Hugging Face name."""
    writer = library.GGUFWriter(path, hyper.architecture.name)
    for key, value in meta.items():
        _add(writer, key, value)
    for name, array in hyper.tensors.items():
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes)
    for p in planned:
        block, size = library.GGML_QUANT_SIZES[p.kind]
        num_bytes = int(np.prod(p.shape)) // block * size
        writer.add_tensor_info(p.name, p.shape, np.dtype(np.float32), num_bytes, p.kind)
    try:
        return _write_opened(library, writer, hyper, planned, tensors)
    finally:
        writer.close()


def _write_opened(
    library: Any,
    writer: Any,
    hyper: hyperparameters.Hyper,
    planned: list[_Planned],
    tensors: huggingface.Tensors,
) -> dict[str, str]:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for array in hyper.tensors.values():
        writer.write_tensor_data(array)
    digests = {}
    for p in planned:
        raw = _encode(library, p, _to_gguf(tensors.read(p.theirs), p.name, hyper))
        digests[p.theirs] = hashlib.sha256(raw.data).hexdigest()
        writer.write_tensor_data(raw)
    for file in writer.fout:
        file.flush()
        os.fsync(file.fileno())
    return digests


def _add(writer: Any, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _to_gguf(array: np.ndarray, name: str, hyper: hyperparameters.Hyper) -> np.ndarray:
    """The tensor in float32, its rows and norms as llama.cpp has them."""
    a, wide = hyper.architecture, array.astype(np.float32)
    if not np.isfinite(wide).all():
        raise ConversionError(f"{name}: holds NaN or infinite values; not exported")
    if a.norm_offset and name.endswith("norm.weight"):
        return wide + np.float32(a.norm_offset)
    kind = model_file.permuted_kind(name) if a.permuted else None
    if kind is None:
        return wide
    heads = hyper.metadata[f"{a.name}.attention.head_count" + ("" if kind == "q" else "_kv")]
    halves = wide.reshape(heads, 2, -1, *wide.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(wide.shape)


def _encode(library: Any, planned: _Planned, wide: np.ndarray) -> np.ndarray:
    """The bytes of a tensor in its ggml type, as a flat array."""
    if planned.kind.name == "F16" and np.abs(wide).max(initial=0) > _FLOAT16_MAX:
        raise ConversionError(
            f"{planned.theirs}: {np.abs(wide).max():g} does not fit in f16; use bf16 or f32"
        )
    raw = library.quants.quantize(np.ascontiguousarray(wide), planned.kind)
    return np.ascontiguousarray(raw).reshape(-1).view(np.uint8)


def _verify(path: Path, digests: Mapping[str, str], meta: Mapping[str, Any]) -> None:
    """Compares the file with what was meant to be written."""
    written = model_file.File(path)
    for name, digest in digests.items():
        if hashlib.sha256(written.raw(name).data).hexdigest() != digest:
            raise ConversionError(f"{path}: {name} reads back differently; is the disk sound?")
    assert set(meta) <= set(written.metadata), set(meta) - set(written.metadata)
